"""Commands over releases: list, show, diff, build, check, publish, roll back, audit."""

from typing import TYPE_CHECKING, Annotated

import typer

from features.definitions import registry
from schemas.errors import Refused

from . import cli_towers
from .actor import actor
from .cli_options import Json
from .output import Output
from .settings import Settings

if TYPE_CHECKING:
    from index.release_contract import Releases
    from schemas.manifests import ReleaseManifest

Reason = Annotated[str, typer.Option(help="Why, for the audit trail.")]

Expected = Annotated[
    str | None,
    typer.Option(help="Only while this release is live; `none`: only while none is. None: what is live now."),
]

releases = typer.Typer(no_args_is_help=True, help="Immutable releases and the one that is live.")


@releases.command("list")
def list_releases(as_json: Json = False) -> None:
    """List the releases, the live one marked, with the hour of each tier and how far it is behind.

    Example: skewless release list
    """
    from .store_connection import release_store  # noqa: PLC0415 - keeps `--help` quick

    store = release_store(Settings.load())
    current = store.current()
    rows = [_release_row(store, one) | {"live": "yes" if one == current else ""} for one in store.list()]
    Output(as_json).rows("releases", rows)


def _release_row(store: "Releases", release_id: str) -> dict[str, str | int | None]:
    """One line of the list; a damaged release has one too, so that the others can be found."""
    try:
        manifest = store.manifest(release_id)
    except Refused as refused:
        nothing = dict.fromkeys(("tower", "versions", "tiers", "rows", "index", "snapshot"))
        return {"release": release_id, "live": "", **nothing, "snapshot": f"damaged: {refused.code}"}
    return {
        "release": release_id,
        "live": "",
        "tower": manifest.tower_version[:12],
        "versions": "one" if manifest.version_policy == "enforce" else "mixed (tolerate)",
        "tiers": _tiers(manifest),
        "rows": manifest.index.rows,
        "index": manifest.index.kind,
        "snapshot": manifest.snapshot_id,
    }


def _tiers(manifest: "ReleaseManifest") -> str:
    """Hour of each tier, and how far it is behind the freshest."""
    from index.tier_parts import behind  # noqa: PLC0415 - keeps `--help` quick

    hours = behind(manifest.tiers)
    return "; ".join(f"{name} {hour}" for name, hour in hours.items()) or manifest.tier


@releases.command()
def show(
    release_id: Annotated[str | None, typer.Argument(help="None: the live one.")] = None,
    _as_json: Json = False,
) -> None:
    """Print a release's manifest, which is JSON either way.

    Example: skewless release show
    """
    from .store_connection import release_store  # noqa: PLC0415

    store = release_store(Settings.load())
    wanted = release_id or store.current()
    if wanted is None:
        raise Refused("no_release", "a live release", "none", "`skewless release publish ID` makes one live.")
    Output(True).data(store.manifest(wanted).model_dump(mode="json"))


@releases.command()
def diff(
    first: Annotated[str, typer.Argument(help="A release.")],
    second: Annotated[str | None, typer.Argument(help="Another; none: the live one.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a second release has other than a first: tower, tiers, Pins, attributes, checks.

    Example: skewless release diff 20170703T05Z-3f2a9c11-0b7d41aa
    """
    from .release_report import difference_rows, differences_of  # noqa: PLC0415

    found = differences_of(Settings.load(), first, second)
    if as_json:
        Output(True).data(found.as_json())
        return
    Output(False).rows(f"{found.first} and {found.second}", difference_rows(found))


@releases.command()
def build(
    snapshot_ids: Annotated[
        list[str] | None,
        typer.Argument(help="Snapshots, one a tier. None: the newest of every tier of the serving tower."),
    ] = None,
    tolerate: Annotated[
        bool, typer.Option("--tolerate", help="Mix tower versions: the newest row of each Pin. Labelled.")
    ] = False,
    tower: Annotated[
        str | None, typer.Option(help="Query tower, with --tolerate; none: the serving one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a release from snapshots: homogeneity gate, index, checks. Does not publish it.

    Example: skewless release build realtime-20170703T05Z-3f2a9c11 batch-20170703T02Z-77d0c9e4
    """
    from .release_report import build_by_hand  # noqa: PLC0415

    if tower is not None and not tolerate:
        raise typer.BadParameter("--tower goes with --tolerate: otherwise the snapshots' own tower it is")
    report = build_by_hand(Settings.load(), snapshot_ids or [], tower=tower, tolerate=tolerate)
    manifest = report.manifest
    Output(as_json).record(
        "release",
        {
            "release": manifest.release_id,
            "rows": manifest.index.rows,
            "tiers": {name: part.versions for name, part in manifest.tiers.items()},
            "seconds": {name: round(value, 3) for name, value in report.seconds.items()},
        },
    )


@releases.command()
def check(
    release_id: Annotated[str | None, typer.Argument(help="None: the live one.")] = None,
    as_json: Json = False,
) -> None:
    """Load a release as a server would, every checksum and check included. Exit 1 when it is refused.

    Example: skewless release check && echo fit to serve
    """
    from .releasing_checks import check_release  # noqa: PLC0415

    Output(as_json).rows("checks", [one.model_dump() for one in check_release(Settings.load(), release_id)])


@releases.command()
def publish(
    release_id: Annotated[str, typer.Argument(help="The release that shall be live.")],
    reason: Reason = "published by hand",
    expected: Expected = None,
    as_json: Json = False,
) -> None:
    """Make a release live, unless a check refuses it or somebody else published meanwhile.

    Example: skewless release publish 20170703T05-3f2a9c11-0b7d --reason "after the price fix"
    """
    from .store_connection import release_store  # noqa: PLC0415

    settings = Settings.load()
    store = release_store(settings)
    store.publish(
        release_id,
        actor=actor(),
        reason=reason,
        expected_current=_expected(expected) if expected else store.current(),
        registry_hash=registry().content_hash,
        min_rows_ratio=settings.min_rows_ratio,
    )
    Output(as_json).record("published", {"live": store.current()})


@releases.command()
def rollback(
    reason: Reason = "rolled back by hand", expected: Expected = None, as_json: Json = False
) -> None:
    """Go back to the release that was live before this one, and to its tower when that was another.

    Example: skewless release rollback --reason "recall fell"
    """
    from .rolling_back import roll_back  # noqa: PLC0415
    from .store_connection import release_store  # noqa: PLC0415

    settings = Settings.load()
    seen = _expected(expected) if expected else release_store(settings).current()
    done = roll_back(settings, actor(), reason, seen)
    towers = {} if done.live_towers is None else {"workers embed with": done.live_towers}
    Output(as_json).record("rolled back", {"live": done.move.release_id} | towers)


def _expected(release_id: str) -> str | None:
    return None if release_id == "none" else release_id


@releases.command()
def audit(as_json: Json = False) -> None:
    """Who moved CURRENT, when, from which release to which, and why.

    Example: skewless release audit
    """
    from .store_connection import release_store  # noqa: PLC0415

    Output(as_json).rows("audit trail", [one.model_dump() for one in release_store(Settings.load()).audit()])


def register(app: typer.Typer) -> None:
    """Add this file's commands, and those over towers."""
    app.add_typer(releases, name="release")
    cli_towers.register(app)
