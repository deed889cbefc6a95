"""`skewless embed`: batch embedding of a tier."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_options import no_publish
from .output import Output, messages, progress
from .process import log_to_stderr
from .settings import Settings
from .signals import until_signalled

if TYPE_CHECKING:
    from schemas.statuses import EmbedStatus
    from streams.batch_embedder import Embedded, Share

_SHARD = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")


def _share(text: str) -> "Share":
    from streams.batch_embedder import Share  # noqa: PLC0415 - keeps `--help` quick

    match = _SHARD.fullmatch(text)
    index, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if index >= of:
        raise typer.BadParameter(f"{text!r}: a share is i/n with i from 0 to n-1, as in 0/4")
    return Share(index, of)


def embed(  # noqa: PLR0917 - options, each with a default
    tower: Annotated[str, typer.Option(help="A version or its beginning; default: every live tower.")] = "",
    tier: Annotated[str, typer.Option(help="Default: SKEWLESS_TIER.")] = "",
    shard: Annotated[
        str,
        typer.Option(help="i/n: only partitions that leave i when divided by n; n processes share a run."),
    ] = "0/1",
    every: Annotated[
        float, typer.Option(min=0, help="Batch tiers: again every so many seconds, until SIGTERM.")
    ] = 0.0,
    assemble: Annotated[bool, typer.Option(help="Only join the finished shards into a snapshot.")] = False,
    wait_seconds: Annotated[
        float, typer.Option(min=0, help="Realtime tiers: wait so long for the workers to have the tower.")
    ] = 600.0,
    publish: Annotated[bool, typer.Option(help="Batch tiers: build and publish a release of it.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line a round.")] = False,
) -> None:
    """Embed all Pins of a tier from their states on pin.features.v1, and write a snapshot.

    A run that was killed is gone on with: finished partitions are kept.

    Example: skewless embed --tier batch --every 3600
    """
    from . import embedding  # noqa: PLC0415
    from .releasing import Releaser  # noqa: PLC0415

    settings = Settings.load()
    chosen = settings.tiers().named(tier or settings.tier)
    if every and chosen.policy != "batch":
        raise typer.BadParameter(f"--every is for batch tiers; {chosen.name} is {chosen.policy}")
    log_to_stderr()
    towers = (embedding.full_version(settings, tower),) if tower else ()
    wish = embedding.EmbedWish(chosen, towers, _share(shard), wait_seconds, assemble)
    on_snapshot = Releaser(settings, actor="skewless embed") if publish else no_publish
    with until_signalled() as stop, progress() as bars:
        task = bars.add_task("embed", total=None, note="")

        def show(now: "EmbedStatus") -> None:
            note = now.waiting or (
                f"{now.done}/{now.partitions} partitions, {now.rows:,} Pins, "
                f"{now.rows_per_second:,.0f} states/s"
            )
            bars.update(task, total=now.state_rows_expected or None, completed=now.state_rows, note=note)

        if every:
            pace = embedding.Pace(every)
            for done in embedding.embed_every(settings, wish, pace, on_snapshot, show, stop.is_set):
                _print(done, as_json)
        else:
            try:
                _print(embedding.embed_once(settings, wish, on_snapshot, show, stop.is_set), as_json)
            except embedding.CandidateRefused as refused:
                _print(refused.done, as_json)
                raise


def _print(done: "list[Embedded]", as_json: bool) -> None:
    rows = [_row(one) for one in done]
    if as_json:
        Output(True).data(rows)
        return
    Output(False).rows("embedded", [row | {"failed": len(row["failed"])} for row in rows])
    for one in done:
        if one.missing:
            left = ", ".join(map(str, one.missing))
            messages.print(f"run {one.run_id} lacks partitions {left}: whoever embeds the last one assembles")
        for pin, why in one.failed.items():
            messages.print(f"Pin {pin} has no row: {why}")


def _row(one: "Embedded") -> dict[str, Any]:
    return {
        "run": one.run_id,
        "snapshot": one.assembled.snapshot_id if one.assembled else None,
        "rows": one.rows,
        "partitions": one.partitions,
        "missing": one.missing,
        "failed": one.failed,
        "unreadable": one.unreadable,
    }


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command()(embed)
