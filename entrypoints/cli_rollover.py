"""`skewless rollover`: from the serving tower to a candidate, without staleness."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .actor import actor
from .cli_options import Json
from .clocks import now_ms
from .output import Output, messages
from .settings import Settings
from .signals import until_signalled

if TYPE_CHECKING:
    from .rollover import RolloverWish
    from .rollover_progress import Progress

Tower = Annotated[str, typer.Option(help="The candidate: a tower version or its beginning.")]
Reason = Annotated[str, typer.Option(help="Kept in the record and in the audit trail.")]

rollovers = typer.Typer(
    help="Roll over to another tower: start, status, finish, abort.", no_args_is_help=True
)

_WATCH_SECONDS = 2.0


def _wish(reason: str, *, manual: bool = False, replace: bool = False) -> "RolloverWish":
    from .rollover import RolloverWish  # noqa: PLC0415 - keeps `--help` quick

    return RolloverWish(actor(), reason, manual, replace)


@rollovers.command()
def start(
    tower: Tower,
    reason: Reason = "started by hand",
    manual: Annotated[
        bool, typer.Option("--manual", help="Publish nothing before `rollover finish`.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Abort another candidate's first.")] = False,
    as_json: Json = False,
) -> None:
    """Make a tower the candidate: workers embed each change with it too, and its releases are prepared.

    It goes live by itself when every tier is complete, unless --manual. Given again, it goes on. Of a tower
    that was live before and has nothing newer, `rollover finish` makes the old release live again.

    Example: skewless rollover start --tower 8be01d55 --reason "week 32"
    """
    from . import embedding, rollover  # noqa: PLC0415
    from .rollover_progress import rollover_progress  # noqa: PLC0415

    settings = Settings.load()
    version = embedding.full_version(settings, tower)
    wish = _wish(reason, manual=manual, replace=replace)
    record = rollover.start_rollover(settings, version, wish, rollover.Times(now_ms))
    shown = {"candidate": record.candidate, "serving": record.serving, "manual": record.manual}
    Output(as_json).record("rollover started", shown | {"by": record.actor, "reason": record.reason})
    if not as_json and settings.backfill == "batch":
        messages.print(f"next: skewless embed --tower {version[:12]}  (for each tier)")
    progress = None if as_json else rollover_progress(settings, now_ms())
    if progress is not None and progress.was_live_before and not progress.manual:
        messages.print("Its newest release was live before. One of newer snapshots goes live by itself.")
        messages.print(f"to make that one live: skewless rollover finish --tower {version[:12]}")


@rollovers.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Again every 2 s until it is over.")] = False,
    as_json: Json = False,
) -> None:
    """Show how far the candidate is: per tier and partition, what it lacks, how long, and the cost so far.

    Example: skewless rollover status --watch
    """
    from .rollover_progress import rollover_progress  # noqa: PLC0415

    settings = Settings.load()
    with until_signalled() as stop:
        while True:
            progress = rollover_progress(settings, now_ms())
            _show(progress, as_json)
            if not watch or progress is None or stop.wait(_WATCH_SECONDS):
                return


@rollovers.command()
def finish(tower: Tower, reason: Reason = "rollover finished by hand", as_json: Json = False) -> None:
    """Publish the candidate's newest complete release and retire the old tower. Refused when incomplete.

    Example: skewless rollover finish --tower 8be01d55
    """
    from . import embedding, rollover  # noqa: PLC0415

    settings = Settings.load()
    version = embedding.full_version(settings, tower)
    live = rollover.finish_rollover(settings, version, _wish(reason), rollover.Times(now_ms))
    Output(as_json).record("rollover finished", {"live": live, "tower": version})


@rollovers.command()
def abort(tower: Tower, as_json: Json = False) -> None:
    """Go back to the serving tower alone, and delete what the candidate has left on disk.

    Example: skewless rollover abort --tower 8be01d55
    """
    from . import embedding, rollover  # noqa: PLC0415

    settings = Settings.load()
    version = embedding.full_version(settings, tower)
    deleted = rollover.abort_rollover(settings, version, rollover.Times(now_ms))
    Output(as_json).record("rollover aborted", {"tower": version, "deleted": deleted})


def _show(progress: "Progress | None", as_json: bool) -> None:
    if as_json:
        Output(True).data(_plain(progress))
        return
    if progress is None:
        Output(False).record("rollover", {"state": "none under way"})
        return
    eta = "not known" if progress.eta_seconds is None else f"{progress.eta_seconds:,.0f} s"
    facts = {
        "state": progress.state,
        "candidate": progress.candidate,
        "serving": progress.serving,
        "begun by": f"{progress.actor}: {progress.reason}",
        "for": f"{progress.elapsed_seconds:,.0f} s",
        "covered": f"{progress.covered:.1%}",
        "time left": eta,
        "goes live": _how(progress),
    }
    Output(False).record("rollover", facts)
    Output(False).rows("tiers", [{"tier": name, **_tier(one)} for name, one in progress.tiers.items()])
    Output(False).rows("cost so far", _cost(progress))


def _how(progress: "Progress") -> str:
    """What makes the candidate live."""
    if progress.manual:
        return "by `rollover finish`"
    if progress.was_live_before:
        return "with its next snapshot; what it has was live before: by `rollover finish`"
    return "by itself"


def _plain(progress: "Progress | None") -> dict[str, Any]:
    if progress is None:
        return {"state": "none"}
    plain = dataclasses.asdict(progress)
    plain["cost"]["towers"] = {one: work.model_dump() for one, work in progress.cost.towers.items()}
    return plain


def _tier(one: Any) -> dict[str, Any]:
    lagging = [f"{number}: {share:.0%}" for number, share in one.partitions.items() if share < 1]
    return {
        "policy": one.policy,
        "covered": f"{one.covered:.1%}",
        "Pins": one.pins,
        "of": one.of,
        "partitions not covered": ", ".join(lagging) or None,
        "shards": one.shards or None,
        "snapshot": one.snapshot_id,
        "missing": one.missing or "nothing",
    }


def _cost(progress: "Progress") -> list[dict[str, Any]]:
    names = {progress.serving: "serving", progress.candidate: "candidate"}
    rows = [
        {
            "tower": f"{names[version]} {version[:12]}",
            "CPU seconds": round(work.embed_cpu_seconds, 2),
            "rows": work.rows,
            "bytes": work.row_bytes,
            "RSS": None,
        }
        for version, work in progress.cost.towers.items()
    ]
    cost = progress.cost
    workers = f"workers ({'at least' if cost.at_least else 'since the start'})"
    grown = f"{cost.rss_bytes:,} ({cost.rss_growth_bytes:+,})"
    return [
        *rows,
        {
            "tower": "batch embedders",
            "CPU seconds": round(cost.batch_cpu_seconds, 2),
            "rows": cost.batch_rows,
            "bytes": None,
            "RSS": None,
        },
        {"tower": workers, "CPU seconds": None, "rows": None, "bytes": None, "RSS": grown},
    ]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(rollovers, name="rollover")
