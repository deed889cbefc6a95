"""Start, finish and abort a rollover: LIVE, the record beside it, and what a candidate leaves on disk.

Each step is one atomic change, in an order in which the same command, given again after a crash, goes on
from there: the record is written first and removed last.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from features.definitions import registry
from models.checkpoint import read_tower_manifest
from models.live_towers import LockedLiveTowers, locked_live_towers
from schemas.errors import Refused
from schemas.rollovers import Rollover
from streams.embedding_runs import EmbeddingRuns

from .candidate_traces import (
    discard_finished_runs,
    discard_releases,
    discard_runs,
    discard_snapshots,
    releases_of,
    snapshots_of,
    wait_for_cutters,
)
from .releasing import BuildWish, build_from_snapshots
from .rollover_cost import worker_counters
from .rollover_progress import candidate_snapshot, rollover_progress
from .rollover_record import (
    close_rollover,
    end_turned_away,
    read_rollover,
    remove_rollover,
    went_live,
    write_rollover,
)
from .settings import Settings
from .store_connection import release_store

log = logging.getLogger(__name__)

_ATTEMPTS = 5
"""Of a finish, while the cutter of the serving tower publishes in between."""


@dataclass(frozen=True)
class RolloverWish:
    """Who wants it and why. `manual`: nothing is published before `finish`; `replace`: abort another one."""

    actor: str
    reason: str
    manual: bool = False
    replace: bool = False


@dataclass(frozen=True)
class Times:
    """The wall clock in milliseconds, a monotonic one in seconds, and a way to wait."""

    now_ms: Callable[[], int]
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    cutter_seconds: float = 60.0
    """An abort waits so long for a cutter to let go of the candidate."""


def start_rollover(settings: Settings, version: str, wish: RolloverWish, times: Times) -> Rollover:
    """Make a tower the candidate: workers embed with it from now on. Done again, it goes on where it was.

    Raises Refused: what is wrong with the checkpoint, `registry_mismatch`, `already_serving`,
    `no_live_tower` or `rollover_under_way`.
    """
    _check_tower(settings, version)
    with locked_live_towers(settings.towers_dir):
        # Whoever rolled back on another machine could not remove the record here.
        end_turned_away(settings, release_store(settings).audit())
    before = read_rollover(settings)
    if before is not None and before.candidate != version:
        if not wish.replace:
            raise Refused(
                "rollover_under_way",
                f"no other candidate than {version[:12]}",
                f"a rollover to {before.candidate[:12]}, begun by {before.actor}",
                "Finish or abort that one, or give --replace to abort it now.",
            )
        abort_rollover(settings, before.candidate, times)
    with locked_live_towers(settings.towers_dir) as towers:
        serving = _serving(settings, towers, version, replace=wish.replace)
        record = read_rollover(settings)
        if record is None:
            record = _record(settings, version, serving, wish, times.now_ms())
            record = record.model_copy(update={"embedded_before": version in towers.read()})
            write_rollover(settings, record)
        elif record.candidate != version:
            raise Refused(
                "rollover_under_way", f"no other candidate than {version[:12]}", record.candidate[:12],
                "Somebody else has just started that one.",
            )  # fmt: skip
        towers.write([serving, version])
    log.info("rollover to tower %s has begun", version[:12])
    return record


def finish_rollover(settings: Settings, version: str, wish: RolloverWish, times: Times) -> str:
    """Publish the candidate's newest complete release and retire the old tower; returns the release's id.

    Raises Refused: `no_rollover`, `rollover_incomplete` with what is missing, or why it cannot go live.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _finish(settings, version, wish, times)
        except Refused as refused:
            if refused.code != "current_moved":
                raise
    return _finish(settings, version, wish, times)


def _finish(settings: Settings, version: str, wish: RolloverWish, times: Times) -> str:
    """Once. Raises Refused `current_moved` when another release went live while this one was built."""
    _record_of(settings, version)
    store = release_store(settings)
    seen = store.current()
    progress = rollover_progress(settings, times.now_ms())
    if progress is not None and progress.state not in ("ready", "live"):
        lives = "LIVE to name the candidate" if progress.state == "interrupted" else "a complete candidate"
        raise Refused(
            "rollover_incomplete",
            lives,
            "; ".join(progress.missing) or "a LIVE without it",
            "`skewless rollover status` shows what it waits for; `start` again mends an interrupted one.",
        )
    if progress is not None and progress.state == "ready":
        ids = [
            found.snapshot_id
            for tier in settings.tiers().tiers
            if (found := candidate_snapshot(settings, tier, version)) is not None
        ]
        release_id = build_from_snapshots(settings, ids, BuildWish(tower=version)).manifest.release_id
        with locked_live_towers(settings.towers_dir) as towers:
            if version not in towers.read():
                raise Refused(
                    "rollover_incomplete", "LIVE to name the candidate", "another LIVE", "It was aborted."
                )
            moves = store.audit()
            line = store.publish(
                release_id,
                actor=wish.actor,
                reason=wish.reason,
                expected_current=seen,
                registry_hash=registry().content_hash,
                min_rows_ratio=settings.min_rows_ratio,
            )
            # Not the trail as it is now: a rollback may have come since, and LIVE follows it next.
            close_rollover(settings, towers, [*moves, line])
    else:
        live = store.comparable_live()
        if progress is None and (live is None or live.tower_version != version):
            _record_of(settings, version)  # it was aborted since the look at it
        with locked_live_towers(settings.towers_dir) as towers:
            close_rollover(settings, towers, store.audit())
    # A run that is not over is of the tower that serves now: it goes on.
    discard_finished_runs(settings, version)
    current = store.current()
    assert current is not None
    return current


def abort_rollover(settings: Settings, version: str, times: Times) -> list[str]:
    """Go back to the serving tower alone; delete what the candidate has left. Returns what was deleted.

    Raises Refused (`no_rollover`, `already_live`, `rollover_restarted`); RetryableError while a cutter does
    not let go of it.
    """
    record = _record_of(settings, version)
    with locked_live_towers(settings.towers_dir) as towers:
        moves = release_store(settings).audit()
        if went_live(record, moves):
            raise Refused(
                "already_live",
                f"a candidate that is not live yet, to abort the rollover to {version[:12]}",
                f"release {moves[-1].release_id} of it, live",
                "`skewless release rollback` goes back to the one before; `rollover finish` tidies up.",
            )
        kept = [one for one in towers.read() if one != version] or [record.serving]
        towers.write(kept)
    wait_for_cutters(settings, version, times.cutter_seconds, times.clock, times.pause)
    with locked_live_towers(settings.towers_dir) as towers:
        # The cutters were waited for without the lock, which they need.
        if version in towers.read():
            raise Refused(
                "rollover_restarted",
                f"LIVE without {version[:12]} while the rollover to it is aborted",
                "a start that took it up again meanwhile",
                "Nothing was deleted. Abort again if it is still to go.",
            )
        deleted = discard_runs(settings, version, keep=record.kept_runs)
        deleted += discard_snapshots(settings, version, record)
        deleted += discard_releases(settings, version, record)
        remove_rollover(settings)
    log.info("rollover to tower %s is aborted", version[:12])
    return deleted


def _check_tower(settings: Settings, version: str) -> None:
    manifest = read_tower_manifest(settings.towers_dir, version)
    ours = registry().content_hash
    if manifest.registry_hash != ours:
        raise Refused(
            "registry_mismatch",
            f"a tower of feature registry {ours[:12]}",
            f"{manifest.registry_hash[:12]} of tower {version[:12]}",
            "Train it again with the registry of today: workers could not compute its inputs.",
        )


def _serving(settings: Settings, towers: LockedLiveTowers, version: str, *, replace: bool) -> str:
    live = towers.read()
    if not live:
        raise Refused(
            "no_live_tower",
            "a serving tower in LIVE, to roll over from",
            "an empty LIVE",
            f"`skewless towers live {version[:12]}` makes this one the first.",
        )
    if live[0] == version:
        raise Refused(
            "already_serving", "another tower than the serving one", version[:12], "Nothing is to be done."
        )
    others = [one for one in live[1:] if one != version]
    if others and not replace:
        raise Refused(
            "rollover_under_way",
            f"LIVE with {live[0][:12]} and no other candidate than {version[:12]}",
            ", ".join(one[:12] for one in others),
            "`skewless towers live` names the serving one alone; or give --replace.",
        )
    return live[0]


def _record(settings: Settings, version: str, serving: str, wish: RolloverWish, now_ms: int) -> Rollover:
    return Rollover(
        candidate=version,
        serving=serving,
        started_ms=now_ms,
        actor=wish.actor,
        reason=wish.reason,
        manual=wish.manual,
        kept_snapshots=snapshots_of(settings, version),
        kept_releases=releases_of(settings, version),
        kept_runs=EmbeddingRuns(settings.embeddings_dir).names(version),
        baseline=worker_counters(settings),
        moves=len(release_store(settings).audit()),
    )


def _record_of(settings: Settings, version: str) -> Rollover:
    record = read_rollover(settings)
    if record is None or record.candidate != version:
        came = "none" if record is None else f"one to {record.candidate[:12]}"
        fix = "`skewless rollover start --tower` begins one."
        raise Refused("no_rollover", f"a rollover to {version[:12]} under way", came, fix)
    return record
