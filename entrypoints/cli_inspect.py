"""Commands that look at things: features, settings, a ranking, the ranking log."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer

from features.definitions import registry
from schemas.errors import InvalidMessage, Refused, RetryableError
from schemas.transport import masked

from .cli_options import Json
from .durations import moment_ms
from .output import Output
from .settings import ENV_PREFIX, Settings


def features(as_json: Json = False) -> None:
    """List the feature registry: each feature with its entity, shape, owner and paths.

    Example: skewless features --json
    """
    declared = registry()
    rows = [{**spec.declaration(), "owner": spec.owner, "doc": spec.doc} for spec in declared.specs]
    if as_json:
        Output(True).data({"registry_hash": declared.content_hash, "features": rows})
        return
    keep = ("name", "entity", "dtype", "shape", "buckets", "owner", "paths", "version")
    Output(False).rows(
        f"feature registry {declared.content_hash[:12]}", [{name: row[name] for name in keep} for row in rows]
    )


def settings(as_json: Json = False) -> None:
    """Print every setting in force; secrets are masked, and so is what stands before an `@`.

    Example: SKEWLESS_HTTP_PORT=9000 skewless settings
    """
    loaded = Settings.load()
    Output(as_json).rows(
        "settings",
        [
            {
                "variable": ENV_PREFIX + name.upper(),
                "value": masked(str(getattr(loaded, name))),
                "what": field.description,
            }
            for name, field in Settings.model_fields.items()
        ],
    )


def _server_address(url: str) -> str:
    """`url` as given; wrong usage when no request can be sent there."""
    import httpx  # noqa: PLC0415 - keeps `--help` quick

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise typer.BadParameter(f"{url!r}: {error}") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise typer.BadParameter(f"{url!r}: a server's address is like http://127.0.0.1:8080")
    return url


def rank(
    user: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="User id.")],
    slots: Annotated[int, typer.Option(min=1, max=100, help="Ads wanted.")] = 5,
    url: Annotated[str, typer.Option(callback=_server_address, help="The server.")] = "http://127.0.0.1:8080",
    as_json: Json = False,
) -> None:
    """Send one ranking query to a running server and print its ads.

    Example: skewless rank --user 1228 --slots 3
    """
    from schemas.ranking import RankRequest  # noqa: PLC0415 - keeps `--help` quick
    from skewless_client import RankClient, RankError  # noqa: PLC0415

    try:
        with RankClient(url) as client:
            response = client.rank(RankRequest(user_id=user, slots=slots))
    except RankError as error:
        if error.status in (None, 503):
            raise RetryableError(f"{error}; is `skewless serve` running at {url}?") from error
        raise Refused(
            "rank_refused", "ranked ads", str(error), error.hint or "See the server's log."
        ) from error
    if as_json:
        Output(True).data(response.model_dump(mode="json"))
        return
    Output(False).rows(
        f"release {response.release_id}, query tower {response.query_tower_version[:12]}, "
        f"Pin tower {response.pin_tower_version[:12]}",
        [
            {
                "#": ad.position,
                "pin": ad.pin_id,
                "title": ad.title,
                "score": round(ad.score, 4),
                "pctr": round(ad.pctr, 4),
                "bid": ad.bid_micros / 1e6,
                "price": ad.price_micros / 1e6,
            }
            for ad in response.ads
        ],
    )


def _since_ms(text: str) -> int:
    return moment_ms(text, time.time_ns() // 1_000_000)


def recount(
    logs: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Directory of ranking logs; default: the data directory's."
        ),
    ] = None,
    since: Annotated[
        int | None,
        typer.Option(parser=_since_ms, metavar="15m|TIME", help="Only answers since then; a time is UTC."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Recount, from the ranking log alone, (query, Pin) pairs of different tower versions. Exit 1 unless 0.

    Answers under the policy `tolerate` are counted apart: what is mixed in them changes no exit code. A log
    that is not there, or cannot be read, is no proof: exit 3.

    Example: skewless recount --since 15m --json
    """
    from serving.ranking_log import recount_mixed  # noqa: PLC0415

    try:
        counted = recount_mixed(logs or Settings.load().logs_dir, since or 0)
    except InvalidMessage as error:
        raise Refused(
            "damaged_log",
            expected="ranking logs with every line whole; only a last line may be torn",
            came=error.detail,
            fix="Keep that file for whoever looks into it; --logs recounts a directory without it.",
        ) from error
    by_policy = {"enforce": counted.enforce, "tolerate": counted.tolerate}
    rows = [{"version_policy": policy} | dataclasses.asdict(one) for policy, one in by_policy.items()]
    Output(as_json).rows("ranking log, recounted: of `enforce` nothing may be mixed", rows)
    if not counted.kept:
        raise typer.Exit(1)


def funnel(
    queries: Annotated[int, typer.Option(min=1, max=10_000, help="Real baskets to ask as queries.")] = 200,
    first_week: Annotated[int, typer.Option(min=1, max=53, help="First week that they are from.")] = 41,
    as_json: Json = False,
) -> None:
    """Measure what the L1 cut of the live release costs, against an auction over every eligible Pin.

    Example: SKEWLESS_DATA_DIR=var/demo skewless funnel --queries 500
    """
    from .funnel import live_cut_recall  # noqa: PLC0415

    recall = live_cut_recall(Settings.load(), queries, first_week, seed=1)
    Output(as_json).record("share of the uncut auction's winners in the cut", dataclasses.asdict(recall))


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    for command in (rank, recount, funnel, features, settings):
        app.command()(command)
