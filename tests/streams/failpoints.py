"""Named places at which a process of a test ends itself, as `kill -9` would.

Production code has no hooks: `arm` wraps its functions in the process that is to die. The marker file is
written before the end, so a test can prove that its failpoint was reached, and how often.
"""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import index.snapshots
import schemas.artefacts
import streams.enrichment
import streams.state_topic
from features.store import RocksStore
from streams.backfill import Backfill
from streams.intake import Intake
from streams.outlet import Outlet
from streams.state_flush import StateFlush
from streams.worker_report import WorkerReport
from tests.fakes import FakePinTower

Condition = Callable[[Sequence[Any], Any], bool]
"""Sees the arguments of a call, and what it returned (None before it has)."""


@dataclass(frozen=True)
class Failpoint:
    """End at the `nth` time that `name` is reached, having written `marker`."""

    name: str
    nth: int
    marker: Path


@dataclass(frozen=True)
class Site:
    """A function to wrap, `owner.attribute`; the end comes before its work or after it."""

    owner: Any
    attribute: str
    after: bool
    when: Condition = lambda arguments, result: True


def _stores_a_batch(arguments: Sequence[Any], result: Any) -> bool:
    """`put_many` of states together with the positions of the sources that they come from."""
    meta = arguments[4] if len(arguments) > 4 else None
    return len(arguments[1]) > 0 and any(name.startswith("position/pin.changed") for name in meta or {})


def _gives_something(arguments: Sequence[Any], result: Any) -> bool:
    return result is not None


def _gives_rows(arguments: Sequence[Any], result: Any) -> bool:
    return result is not None and len(result.rows) > 0


def _offsets_in_flight(arguments: Sequence[Any], result: Any) -> bool:
    return bool(arguments[1].offsets)


def _has_offsets(arguments: Sequence[Any], result: Any) -> bool:
    return bool(arguments[1])


def _is_ready(arguments: Sequence[Any], result: Any) -> bool:
    return bool(arguments[0].name == schemas.artefacts.READY)


def _is_staged(arguments: Sequence[Any], result: Any) -> bool:
    return bool(arguments[0].name.startswith(".staged-"))


WORKER_SITES = {
    "after_decode": Site(streams.enrichment, "decode_framed", after=True),
    "after_tower": Site(FakePinTower, "embed", after=True),
    "before_store": Site(RocksStore, "put_many", after=False, when=_stores_a_batch),
    "between_store_and_produce": Site(RocksStore, "put_many", after=True, when=_stores_a_batch),
    "before_acknowledgement": Site(Outlet, "wait", after=False),
    "between_produce_and_commit": Site(WorkerReport, "acknowledged", after=False, when=_offsets_in_flight),
    "before_commit": Site(Intake, "commit", after=False, when=_has_offsets),
    "after_commit": Site(Intake, "commit", after=True, when=_has_offsets),
    "during_flush": Site(StateFlush, "next_rows", after=True, when=_gives_something),
    "between_flush_and_checkpoint": Site(StateFlush, "next_checkpoints", after=True, when=_gives_something),
}
"""Reached by a worker that has events to work on."""

RECOVERY_SITES = {
    "during_recovery": Site(Intake, "read", after=True, when=_gives_something),
    "during_restore": Site(streams.state_topic, "merge_states", after=True),
}
"""Reached by a worker that comes after one that was killed; the last one when its disk is gone."""

BACKFILL_SITES = {"during_backfill": Site(Backfill, "next_chunk", after=True, when=_gives_rows)}
"""Reached by a worker for which a second tower is live."""

CUTTER_SITES = {
    "before_manifest": Site(index.snapshots, "write_manifest", after=False),
    "after_manifest": Site(index.snapshots, "write_manifest", after=True),
    "before_ready": Site(schemas.artefacts, "_write_durably", after=False, when=_is_ready),
    "before_rename": Site(Path, "rename", after=False, when=_is_staged),
    "after_rename": Site(Path, "rename", after=True, when=_is_staged),
    "after_publication": Site(index.snapshots, "publish_staged", after=True),
}
"""Reached by a cutter that cuts."""

SITES = WORKER_SITES | RECOVERY_SITES | BACKFILL_SITES | CUTTER_SITES


def arm(failpoint: Failpoint) -> None:
    """Wrap the failpoint's function in this process."""
    site = SITES[failpoint.name]
    original = getattr(site.owner, site.attribute)
    reached = 0

    def pass_or_die(arguments: Sequence[Any], result: Any) -> None:
        nonlocal reached
        reached += site.when(arguments, result)
        if reached == failpoint.nth:
            failpoint.marker.write_text(failpoint.name)
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if not site.after:
            pass_or_die(arguments, None)
        result = original(*arguments, **named)
        if site.after:
            pass_or_die(arguments, result)
        return result

    setattr(site.owner, site.attribute, wrapped)
