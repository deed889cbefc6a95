"""Day windows under any mixture of disorder, duplicates, kills and lost disks, against a count by hand."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.windows import WindowsStep

from .window_events import PARTITIONS, Log, Told, oracle, settle, step_at

_OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.integers(1, 4), st.booleans(), st.integers(-100, 8)),
        st.tuples(st.just("duplicate")),
        st.tuples(st.just("deliver")),
        st.tuples(st.just("deliver and kill")),
        st.tuples(st.just("tick")),
        st.tuples(st.just("tick and kill")),
        st.tuples(st.just("lose the disk")),
    ),
    max_size=40,
)


class _World:
    """A log, a step over a directory, and a group's committed positions."""

    def __init__(self, path: Path) -> None:
        self.path, self.life, self.day = path, 0, 120
        self.log, self.told = Log(), Told()
        self.events: list[tuple[int, bool, int]] = []
        self.committed: dict[tuple[str, int], int] = {}
        self.step = self._open()

    def _open(self) -> WindowsStep:
        return step_at(self.path / str(self.life), sweep_pins=2)

    def event(self, pin: int, visit: bool, step: int) -> None:
        """One event; the newest day moves by at most eight at a time, late ones go back up to 100 days."""
        self.day = max(self.day, self.day + step)
        self.events.append((pin, visit, self.day + min(step, 0)))
        self._add(*self.events[-1])

    def _add(self, pin: int, visit: bool, day: int) -> None:
        name = f"{len(self.events)}"
        self.log.add(pin, day, visit=visit, name=name, ingested_day=500)

    def duplicate(self) -> None:
        """The last event once more from its producer."""
        if self.events:
            self._add(*self.events[-1])

    def deliver(self, *, kill: bool) -> None:
        """Bring everything since the commit; a kill comes after the store's write and before the rows."""
        result = self.step.apply(self.log.after(self.committed))
        if kill:
            self.step.close()
            self.step = self._open()
        else:
            self.told.result(result)
            self.committed = {lane: len(events) for lane, events in self.log.events.items()}

    def tick(self, *, kill: bool) -> None:
        """Let time pass, or be killed before its rows are sent."""
        result = self.step.tick(0)
        if kill:
            self.step.close()
            self.step = self._open()
        else:
            self.told.result(result)

    def lose_the_disk(self) -> None:
        """Begin again with nothing; what the group has had comes first."""
        self.step.close()
        self.life += 1
        self.step = self._open()
        at = self.committed
        had = [one for one in self.log.after({}) if one.offset < at.get((one.topic, one.partition), 0)]
        self.told.result(self.step.apply(had))


@settings(max_examples=60, deadline=None)
@given(_OPERATIONS)
def test_whatever_happens_the_last_rows_are_those_of_a_count_by_hand(operations: list[tuple]) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as folder:
        world = _World(Path(folder))
        for name, *arguments in operations:
            if name == "event":
                world.event(*arguments)
            elif name == "duplicate":
                world.duplicate()
            elif name == "lose the disk":
                world.lose_the_disk()
            else:
                act = world.deliver if name.startswith("deliver") else world.tick
                act(kill=name.endswith("kill"))
        # The last day has one event in each partition, so that both are told as of it.
        world.day += 1
        for pin in range(101, 101 + PARTITIONS):
            world.event(pin, True, 0)
        world.deliver(kill=False)
        settle(world.step, world.told)
        world.step.close()

    for pin in {pin for pin, _, _ in world.events}:
        wanted = oracle(world.events, pin, world.day)
        day, windows = world.told.rows.get(pin, (world.day, ([0] * 4, [0] * 4)))
        assert windows == wanted, (pin, day, world.day)
        assert oracle(world.events, pin, day) == windows
