"""Visits and engagements as a broker would have them, and what a count by hand makes of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from schemas.codec import decode, encode
from schemas.events import VISIT_WINDOWS_DAYS, EngagementObserved, PinAggregated, VisitObserved
from schemas.times import DAY_MS
from schemas.topics import ENGAGEMENT_OBSERVED, VISIT_OBSERVED
from streams.positions import Partition
from streams.steps import Output, RawEvent, StepResult
from streams.window_store import WindowStore
from streams.windows import WindowSettings, WindowsStep

FIRST_DAY = 20_000
PARTITIONS = 2
Windows = tuple[list[int], list[int]]


def value_of(pin: int, day: int, *, visit: bool, ms: int = 5) -> bytes:
    """Bytes of one event on `FIRST_DAY + day`."""
    at = (FIRST_DAY + day) * DAY_MS + ms
    if visit:
        return encode(VisitObserved(pin_id=pin, occurred_at_ms=at))
    return encode(EngagementObserved(user_id=1, pin_id=pin, occurred_at_ms=at, kind="click"))


@dataclass
class Log:
    """A growing log per topic and partition."""

    events: dict[Partition, list[RawEvent]] = field(default_factory=dict)

    def add(
        self, pin: int, day: int, *, visit: bool = True, name: str | None = None, ingested_day: int = 200
    ) -> RawEvent:
        """Append one event; `name` is its CloudEvents id."""
        value = value_of(pin, day, visit=visit)
        topic = VISIT_OBSERVED.name if visit else ENGAGEMENT_OBSERVED.name
        return self.put(topic, pin % PARTITIONS, b"%d" % pin, value, name, ingested_day)

    def put(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        name: str | None = None,
        ingested_day: int = 200,
    ) -> RawEvent:
        """Append any message."""
        lane = self.events.setdefault((topic, partition), [])
        headers: list[tuple[str, bytes | None]] = []
        if name is not None:
            headers = [("ce_source", b"shop"), ("ce_id", name.encode())]
        ingested = (FIRST_DAY + ingested_day) * DAY_MS
        lane.append(RawEvent(topic, partition, len(lane), ingested, key, value, headers))
        return lane[-1]

    def after(self, positions: dict[Partition, int]) -> list[RawEvent]:
        """What a restarted worker reads again."""
        return [
            event
            for partition, lane in sorted(self.events.items())
            for event in lane[positions.get(partition, 0) :]
        ]


@dataclass
class Told:
    """The rows that came out: the last of each Pin, and how many."""

    rows: dict[int, tuple[int, Windows]] = field(default_factory=dict)
    count: int = 0

    def take(self, outputs: Iterable[Output]) -> list[int]:
        """Keep the rows; their Pins."""
        pins = []
        for output in outputs:
            row = decode(PinAggregated, output.value)
            assert output.key == b"%d" % row.pin_id
            assert row.occurred_at_ms % DAY_MS == 0
            assert row.offsite_visits is not None
            assert row.engagements is not None
            day = row.occurred_at_ms // DAY_MS - FIRST_DAY
            self.rows[row.pin_id] = (day, (row.offsite_visits, row.engagements))
            self.count += 1
            pins.append(row.pin_id)
        return pins

    def result(self, result: StepResult) -> list[int]:
        """Keep the rows of a result."""
        return self.take(result.outputs)


def oracle(events: Sequence[tuple[int, bool, int]], pin: int, day: int) -> Windows:
    """Windows of a Pin as of `day`, by hand. `events`: (pin, whether a visit, day)."""

    def counted(visit: bool) -> list[int]:
        days = [at for its, kind, at in events if its == pin and kind is visit]
        return [sum(day - window <= at < day for at in days) for window in VISIT_WINDOWS_DAYS]

    return counted(True), counted(False)


def step_at(path: Path, **settings: object) -> WindowsStep:
    """The step over a store in this directory."""
    return WindowsStep(WindowStore(path), replace(WindowSettings(), **settings))  # type: ignore[arg-type]


def settle(step: WindowsStep, told: Told, now_ms: int = 0) -> int:
    """Tick until nothing is left to do; how many ticks that took."""
    ticks = 1
    while (result := step.tick(now_ms)).more:
        told.result(result)
        ticks += 1
    return ticks
