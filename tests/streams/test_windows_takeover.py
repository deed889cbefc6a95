"""Partitions that go from worker to worker: what the successor tells while it takes over, and afterwards."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from schemas.codec import decode
from schemas.events import PinAggregated
from schemas.times import DAY_MS
from streams.positions import Partition
from streams.steps import RawEvent
from streams.topic_reader import Spans

from .step_doubles import Around, MemorySource
from .window_events import FIRST_DAY, PARTITIONS, Log, Told, Windows, oracle, step_at


class _Killed(Exception):
    """The process has ended here."""


@dataclass
class _Source(MemorySource):
    """Messages one by one; the process is killed after `dies_after` of them."""

    dies_after: int | None = None
    read_again: list[RawEvent] = field(default_factory=list)

    def read(self, topic: str, spans: Spans) -> Iterator[list[RawEvent]]:
        for batch in super().read(topic, spans):
            if self.dies_after is not None and len(self.read_again) >= self.dies_after:
                raise _Killed
            self.read_again += batch
            yield batch


class _Worker:
    """A driver over the real step, in a directory of its own."""

    def __init__(self, path: Path, log: Log, committed: dict[Partition, int]) -> None:
        self.log, self.committed = log, committed
        self.source = _Source(log.events, committed)
        self.around = Around(step_at(path, sweep_pins=2), self.source, owned=frozenset(log.events))

    def assigned(self, dies_after: int | None = None) -> None:
        self.source.dies_after, self.source.read_again = dies_after, []
        self.around.driver.assigned(sorted(self.log.events))

    def take(self) -> None:
        self.around.driver.take(self.log.after(self.committed))
        self.committed |= {lane: len(events) for lane, events in self.log.events.items()}

    def tick_to_the_end(self) -> None:
        while self.around.driver.tick():
            pass

    def told(self) -> Told:
        """What came since this was asked last."""
        told, outlet = Told(), self.around.outlet
        told.take(outlet.outputs)
        outlet.outputs = []
        return told

    def close(self) -> None:
        self.around.driver.close()


def _world_of_one_pin() -> Log:
    log = Log()
    for day in (5, 30, 90, 99):
        log.add(1, day)
        log.add(1, day, visit=False)
    log.add(3, 100)
    return log


def test_a_takeover_tells_a_pin_once_and_never_less_than_its_predecessor(tmp_path: Path) -> None:
    log, committed = _world_of_one_pin(), dict[Partition, int]()
    first = _Worker(tmp_path / "first", log, committed)
    first.assigned()
    first.take()
    first.tick_to_the_end()
    before = first.told().rows
    first.close()

    second = _Worker(tmp_path / "second", log, committed)
    second.assigned()
    in_between = second.told()
    second.tick_to_the_end()
    after = second.told()
    second.close()

    assert before == {1: (100, ([1, 1, 2, 3], [1, 1, 2, 3]))}
    assert (in_between.count, after.count) == (0, 1)
    assert after.rows == before


@pytest.mark.parametrize("dies_after", range(9))
def test_a_takeover_that_is_killed_anywhere_tells_no_less_when_it_goes_on(
    tmp_path: Path, dies_after: int
) -> None:
    log, committed = _world_of_one_pin(), dict[Partition, int]()
    committed |= {lane: len(events) for lane, events in log.events.items()}
    second = _Worker(tmp_path, log, committed)
    with pytest.raises(_Killed):
        second.assigned(dies_after)
    second.around.step.close()
    assert second.told().count == 0

    third = _Worker(tmp_path, log, committed)
    third.assigned()
    assert len(third.source.read_again) == 9 - dies_after
    third.tick_to_the_end()
    assert third.told().rows == {1: (100, ([1, 1, 2, 3], [1, 1, 2, 3]))}
    third.close()


class _World:
    """One log, three workers of which one has the partitions, and every row against a count by hand."""

    def __init__(self, path: Path) -> None:
        self.path, self.lives, self.day = path, [0, 0, 0], 120
        self.log = Log(
            {
                (topic, n): []
                for topic in ("visit.observed.v1", "engagement.observed.v1")
                for n in range(PARTITIONS)
            }
        )
        self.events: list[tuple[int, bool, int]] = []
        self.had = 0
        self.committed: dict[Partition, int] = {}
        self.last: dict[int, tuple[int, Windows]] = {}
        self.now = 0
        self.worker = self._worker()
        self.worker.assigned()

    def _worker(self) -> _Worker:
        return _Worker(self.path / f"{self.now}-{self.lives[self.now]}", self.log, self.committed)

    def event(self, pin: int, visit: bool, step: int) -> None:
        self.day = max(self.day, self.day + step)
        self.events.append((pin, visit, self.day + min(step, 0)))
        self.log.add(pin, self.events[-1][2], visit=visit, ingested_day=50_000 - FIRST_DAY)

    def take(self) -> None:
        self.had = len(self.events)
        self.worker.take()
        self.check()

    def tick(self) -> None:
        self.worker.around.driver.tick()
        self.check()

    def go_to(self, worker: int, dies_after: int | None = None) -> None:
        self.worker.close()
        self.now = worker
        self.worker = self._worker()
        try:
            self.worker.assigned(dies_after)
        except _Killed:
            self.check()
            self.worker.around.step.close()
            self.worker = self._worker()
            self.worker.assigned()
        self.check()

    def lose_the_disk(self, worker: int) -> None:
        self.lives[worker] += 1
        self.go_to(self.now)

    def check(self) -> None:
        """Each row is of all events that were had, and of no earlier day than the Pin's last one."""
        for output in self.worker.around.outlet.outputs:
            row = decode(PinAggregated, output.value)
            day = row.occurred_at_ms // DAY_MS - FIRST_DAY
            windows = (row.offsite_visits or [], row.engagements or [])
            assert windows == oracle(self.events[: self.had], row.pin_id, day)
            assert day >= self.last.get(row.pin_id, (day, windows))[0]
            self.last[row.pin_id] = (day, windows)
        self.worker.around.outlet.outputs = []


def _operate(world: _World, rng: random.Random) -> None:
    """Something at random; workers change often, and often with sweeps half done."""
    name = rng.choices(["event", "take", "tick", "go", "die", "lose"], [40, 20, 25, 10, 4, 3])[0]
    if name == "event":
        step = rng.choice([0, 0, 1, 1, 7, rng.randrange(100), -1, -rng.randrange(100)])
        world.event(rng.randrange(1, 5), rng.random() < 0.5, step)
    elif name == "take":
        world.take()
    elif name == "tick":
        world.tick()
    elif name == "lose":
        world.lose_the_disk(rng.randrange(3))
    else:
        world.go_to(rng.randrange(3), rng.randrange(6) if name == "die" else None)


@pytest.mark.parametrize(
    "seed", [2, 5, 7, 18, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(100, 140))]
)
def test_whoever_has_the_partitions_no_row_is_of_less_than_was_had(tmp_path: Path, seed: int) -> None:
    world, rng = _World(tmp_path), random.Random(seed)
    for _ in range(150):
        _operate(world, rng)
    # The last day has one event in each partition, so that both are told as of it.
    world.day += 1
    for pin in range(101, 101 + PARTITIONS):
        world.event(pin, True, 0)
    world.take()
    while world.worker.around.driver.tick():
        world.check()
    world.check()
    world.worker.close()

    for pin in {pin for pin, _, _ in world.events}:
        assert world.last.get(pin, (0, ([0] * 4, [0] * 4)))[1] == oracle(world.events, pin, world.day)
