"""What goes wrong in one run, and when. Each seed draws a few kinds, so that rare mixtures happen too."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from schemas.topics import ENRICHMENT_SOURCES, STATE_CHECKPOINTED

from .sim_broker import SimBroker
from .sim_workers import CANDIDATE, Armed, Fleet, Slot

KINDS = (
    "kill",
    "kill_at_call",
    "pause",
    "pause_at_call",
    "cut",
    "outage",
    "stop",
    "disk_loss",
    "power_loss",
    "disk_full",
    "compact",
    "trim",
    "towers",
    "towers_at_call",
    "towers_and_kill",
    "wall_jump",
)
CALLS = (
    "consume",
    "put_many",
    "stored",
    "produce_batch pin.embedded",
    "produce_batch pin.features",
    "produce_batch state.checkpointed",
    "produced",
    "produce pin.",
    "flush",
    "flushed",
    "commit",
    "committed",
    "forward",
    "watermarks",
    "assign",
    "close",
)
"""Beginnings of the names of calls that a fault can wait for."""


@dataclass(frozen=True)
class Fault:
    """One fault: at a moment, to one worker (by number) where it is about one."""

    at: float
    kind: str
    worker: int
    seconds: float
    call: str
    count: int


def fault_plan(rng: random.Random, seconds: float, workers: int, session_seconds: float) -> list[Fault]:
    """Up to eight faults of up to four kinds."""
    kinds = rng.sample(KINDS, rng.randint(1, 4))
    return sorted(
        (
            Fault(
                at=rng.random() * seconds,
                kind=rng.choice(kinds),
                worker=rng.randrange(workers),
                seconds=rng.choice((0.3, 1.0, 2.5)) * session_seconds * (0.3 + rng.random()),
                call=rng.choice(CALLS) if rng.random() < 0.7 else "",
                count=rng.choice((1, 1, 1, 2, 3)),
            )
            for _ in range(rng.randint(0, 8))
        ),
        key=lambda fault: fault.at,
    )


class Storm:
    """Lets faults happen."""

    def __init__(self, fleet: Fleet, broker: SimBroker) -> None:
        self._fleet, self._broker, self._world = fleet, broker, broker.world
        self.over = False

    def strike(self, fault: Fault) -> None:
        """One fault, now or armed for a call."""
        if self.over:
            return
        slot = self._fleet.slots[fault.worker]
        self._world.trace("fault:", fault.kind, slot.name)
        getattr(self, f"_{fault.kind}")(slot, fault)

    def _kill(self, slot: Slot, fault: Fault) -> None:
        self._fleet.kill(slot)

    def _kill_at_call(self, slot: Slot, fault: Fault) -> None:
        self._arm(slot, fault, lambda: self._fleet.kill(slot))

    def _pause(self, slot: Slot, fault: Fault) -> None:
        self._fleet.pause(slot, fault.seconds)

    def _pause_at_call(self, slot: Slot, fault: Fault) -> None:
        self._arm(slot, fault, lambda: self._fleet.pause(slot, fault.seconds))

    def _arm(self, slot: Slot, fault: Fault, action: Callable[[], None]) -> None:
        """At a named call, or at any of the calls that follow an assignment, when state is restored."""
        if fault.call:
            slot.armed = Armed(action, fault.call, fault.count)
        else:
            self._arm_recovery(slot, action)

    def _arm_recovery(self, slot: Slot, action: Callable[[], None]) -> None:
        rng = self._world.rng
        then = Armed(action, "", rng.randint(1, 20)) if rng.random() < 0.5 else Armed(action, "stored", 1)
        slot.armed = Armed(lambda: setattr(slot, "armed", then), "is assigned", 1)

    def _perhaps_again(self, slot: Slot) -> None:
        """The next process dies while it recovers."""
        if self._world.rng.random() < 0.5:
            self._arm_recovery(slot, lambda: self._fleet.kill(slot))

    def _cut(self, slot: Slot, fault: Fault) -> None:
        self._fleet.cut(slot, fault.seconds)

    def _outage(self, slot: Slot, fault: Fault) -> None:
        self._broker.outage(fault.seconds)

    def _stop(self, slot: Slot, fault: Fault) -> None:
        self._fleet.stop(slot)
        self._world.time.after(fault.seconds, lambda: self._want(slot))

    def _want(self, slot: Slot) -> None:
        if not self.over:
            self._fleet.want(slot)

    def _disk_loss(self, slot: Slot, fault: Fault) -> None:
        self._fleet.kill(slot)
        slot.disk.lose()
        self._perhaps_again(slot)

    def _power_loss(self, slot: Slot, fault: Fault) -> None:
        self._fleet.kill(slot)
        slot.disk.lose_power(self._world.rng.randint(1, 6))
        self._perhaps_again(slot)

    def _disk_full(self, slot: Slot, fault: Fault) -> None:
        slot.disk.full = True
        self._world.time.after(fault.seconds, lambda: _free(slot))

    def _compact(self, slot: Slot, fault: Fault) -> None:
        self._broker.compact(self._world.rng.choice(self._broker.topics.compacted))

    def _trim(self, slot: Slot, fault: Fault) -> None:
        trim_sources(self._broker)

    def _towers(self, slot: Slot, fault: Fault) -> None:
        """The candidate tower goes live, or is taken off again."""
        self._fleet.versions[1:] = [] if len(self._fleet.versions) > 1 else [CANDIDATE]
        self._world.trace("live towers:", len(self._fleet.versions))

    def _towers_at_call(self, slot: Slot, fault: Fault) -> None:
        """The same in the middle of what one worker does."""
        self._arm(slot, fault, lambda: self._towers(slot, fault))

    def _towers_and_kill(self, slot: Slot, fault: Fault) -> None:
        """Whoever takes over finds other towers live than the dead one did."""
        self._fleet.kill(slot)
        self._towers(slot, fault)

    def _wall_jump(self, slot: Slot, fault: Fault) -> None:
        self._broker.wall_shift_ms += self._world.rng.randint(-100_000, 100_000)


def _free(slot: Slot) -> None:
    slot.disk.full = False


def trim_sources(broker: SimBroker) -> None:
    """Retention takes what is committed and covered by a checkpoint, which is all that it may take."""
    for number in range(broker.topics.partitions):
        said = [
            orjson.loads(one.its_value or b"")
            for one in broker.topics.log(STATE_CHECKPOINTED.name, number).history
        ]
        covers = max(said, key=lambda one: int(one["state_offset"]))["covers"] if said else {}
        for topic in ENRICHMENT_SOURCES:
            before = min(covers.get(topic.name, 0), broker.group.committed.get((topic.name, number), 0))
            broker.topics.log(topic.name, number).trim(before)
    broker.world.trace("broker", "trims the sources")
