"""A step, a source, an outlet and surroundings that live in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from schemas.errors import DeadLetterReason, RetryableError
from streams.positions import Partition
from streams.step_driver import StepDriver, StepSurroundings
from streams.step_source import PartitionStanding
from streams.steps import Output, RawEvent, StepResult, TurnedDown
from streams.stream_telemetry import StreamTelemetry
from streams.topic_reader import Spans
from streams.wire_format import WireFormats

TOPIC = "visit.observed.v1"


def event(offset: int, partition: int = 0, value: bytes = b"x", topic: str = TOPIC) -> RawEvent:
    """A raw event."""
    return RawEvent(topic, partition, offset, 1_000, b"1", value, [])


@dataclass
class EchoStep:
    """Sends every value on and turns down the value `bad`; remembers what it was given."""

    name: str = "echo"
    topics: tuple[str, ...] = (TOPIC,)
    next_offsets: dict[Partition, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)
    events: list[RawEvent] = field(default_factory=list)
    left: int = 0
    unanswered: int = 0
    """Calls of `owned` that fail before the next one succeeds."""
    closed: bool = False
    before_apply: Callable[[], None] = lambda: None

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        return {one: self.next_offsets[one] for one in partitions if one in self.next_offsets}

    def owned(self, partitions: Iterable[Partition], behind: Iterable[Partition] = ()) -> None:
        lacking = sorted(number for _, number in behind)
        name = f"owned {sorted(number for _, number in partitions)}"
        self.calls.append(f"{name} behind {lacking}" if lacking else name)
        if self.unanswered:
            self.unanswered -= 1
            raise RetryableError("no answer")

    def apply(self, events: Sequence[RawEvent]) -> StepResult:
        self.before_apply()
        self.calls.append("apply")
        self.batches.append([one.offset for one in events])
        self.events += events
        outputs, letters = [], []
        for one in events:
            place = (one.topic, one.partition)
            self.next_offsets[place] = max(self.next_offsets.get(place, 0), one.offset + 1)
            self.seen.append((one.partition, one.offset))
            if one.value == b"bad":
                letters.append(TurnedDown(one, DeadLetterReason.DECODE_ERROR, "bad"))
            else:
                outputs.append(Output("out", b"%d" % one.offset, one.value or b"", owner=one.partition))
        return StepResult(outputs, letters)

    def tick(self, now_ms: int) -> StepResult:
        self.calls.append("tick")
        self.left = max(0, self.left - 1)
        return StepResult(more=self.left > 0)

    def close(self) -> None:
        self.closed = True


@dataclass
class MemorySource:
    """Logs by partition; the group's committed offsets by partition."""

    logs: dict[Partition, list[RawEvent]] = field(default_factory=dict)
    committed: dict[Partition, int] = field(default_factory=dict)
    low: int = 0
    failures: list[str] = field(default_factory=list)
    reads: list[tuple[str, dict[int, tuple[int, int]]]] = field(default_factory=list)
    closed: bool = False

    def partitions(self, topics: Sequence[str]) -> list[Partition]:
        return [one for one in self.logs if one[0] in topics]

    def standing(self, partitions: Sequence[Partition]) -> dict[Partition, PartitionStanding]:
        if self.failures:
            raise RetryableError(self.failures.pop())
        return {
            one: PartitionStanding(self.low, len(self.logs.get(one, [])), self.committed.get(one))
            for one in partitions
        }

    def read(self, topic: str, spans: Spans) -> Iterator[list[RawEvent]]:
        self.reads.append((topic, dict(spans)))
        for number, (start, end) in spans.items():
            for one in self.logs[topic, number][max(start, self.low) : end]:
                yield [one]
                if self.failures:
                    raise RetryableError(self.failures.pop())

    def close(self) -> None:
        self.closed = True


@dataclass
class MemoryOutlet:
    """What was sent; fails as often as it is told to."""

    failures: int = 0
    outputs: list[Output] = field(default_factory=list)
    letters: list[TurnedDown] = field(default_factory=list)
    on_send: Callable[[], None] = lambda: None
    closed: bool = False

    def send(self, outputs: Sequence[Output], letters: Sequence[TurnedDown]) -> None:
        if self.failures:
            self.failures -= 1
            self.on_send()
            raise RetryableError("the broker is away")
        self.outputs += outputs
        self.letters += letters

    def close(self) -> None:
        self.closed = True


@dataclass
class Around:
    """A driver with everything in memory."""

    step: Any = field(default_factory=EchoStep)
    source: MemorySource = field(default_factory=MemorySource)
    outlet: MemoryOutlet = field(default_factory=MemoryOutlet)
    owned: frozenset[Partition] = frozenset({(TOPIC, 0), (TOPIC, 1)})
    pauses: list[float] = field(default_factory=list)
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    formats: WireFormats | None = None

    def __post_init__(self) -> None:
        self.telemetry = StreamTelemetry(self.metrics)
        around = StepSurroundings(
            self.outlet,
            self.source,
            self.telemetry,
            lambda: self.owned,
            lambda: 3_500,
            self.pauses.append,
            patience_seconds=1.0,
            formats=self.formats,
        )
        self.driver = StepDriver(self.step, around)

    def metric(self, name: str, **labels: str) -> float:
        """Value of one series."""
        return self.metrics.get_sample_value(f"skewless_stream_{name}", {"step": "echo"} | labels) or 0.0
