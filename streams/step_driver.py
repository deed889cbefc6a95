"""Everything about driving a step that has nothing to do with Faust: gaps, sends, letters, retries.

The order of effects is one and the same for a batch, a range read again and a tick: the step's state is
durable, then rows and letters are with the broker, then and only then the call returns and the batch may
be acknowledged. A crash anywhere in between repeats the batch.

Faust hands out what the group has not committed. A step whose state lacks more than that (another worker
owned the partition, or the disk is new) is brought up to it from the topic itself, before anything else. What
the group has committed has its letters already: none is written a second time, as it would be replayed twice.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from schemas.errors import InvalidMessage, RetryableError
from schemas.topics import TOPICS

from .positions import Partition, check_not_ahead
from .step_outlet import StepOutlet
from .step_source import PartitionStanding, StepSource
from .steps import Output, RawEvent, Step, StepResult, TurnedDown
from .stream_telemetry import StreamTelemetry
from .topic_reader import Spans
from .wire_format import MAGIC, WireFormats

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0


@dataclass(frozen=True)
class StepSurroundings:
    """What a driver is given from outside. `owned`: partitions of the group that are this process's now.

    `now_ms` is the wall clock, `pause` sleeps for seconds; a test has its own. `formats` reads messages
    that are framed by a schema registry; without it they are dead letters.
    """

    outlet: StepOutlet
    source: StepSource
    telemetry: StreamTelemetry
    owned: Callable[[], frozenset[Partition]]
    now_ms: Callable[[], int]
    pause: Callable[[float], None] = time.sleep
    patience_seconds: float = 120.0
    formats: WireFormats | None = None


class StepDriver:
    """One step between its topics and its outputs. One call at a time, from whichever thread."""

    def __init__(self, step: Step, around: StepSurroundings) -> None:
        self._step, self._around, self._telemetry = step, around, around.telemetry
        self._ticked = False
        self._assigned: frozenset[Partition] | None = None
        self._behind: frozenset[Partition] = frozenset()
        self.events_taken = 0
        self.catching_up = False
        """Read by the watchdog: what is read again moves nothing in the group."""
        around.telemetry.start(step.name)

    @property
    def name(self) -> str:
        """The step's name."""
        return self._step.name

    @property
    def topics(self) -> tuple[str, ...]:
        """The step's topics."""
        return self._step.topics

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """Take these partitions over, and no others: the state catches up with what the group has committed.

        Raises Refused when the state is of another log than the one that is there.
        """
        self._telemetry.partitions.labels(self.name).set(len(partitions))
        standings = self._patiently(lambda: self._around.source.standing(partitions))
        self._check(standings)
        had = {partition: one.committed or 0 for partition, one in standings.items()}
        self._assigned = frozenset(partitions)
        self._behind = frozenset(one for one, end in had.items() if (self._position(one) or 0) < end)
        # A step may ask Kafka what stands on its output topic; an answer that does not come is waited for.
        self._patiently(lambda: self._step.owned(partitions, self._behind))
        if not self._ticked:
            self.tick()
        if self._behind:
            self.catching_up = True
            self._catch_up(had, with_letters=False)
            self._behind = frozenset()
            self._step.owned(self._still_ours())
            self.catching_up = False

    def _check(self, standings: Mapping[Partition, PartitionStanding]) -> None:
        """Raise Refused for a state that is ahead of its topic; count what the topic no longer has."""
        for partition, standing in standings.items():
            position = self._position(partition)
            check_not_ahead(partition, position, standing.high)
            # Without a state of the partition, what its group has committed was had by its owner before.
            had = max(position or 0, standing.committed or 0)
            if missed := max(0, standing.low - had) if had else 0:
                self._telemetry.missed_events.labels(self.name).inc(missed)
                log.warning("%s: %s[%d] lost %d events before they were had", self.name, *partition, missed)

    def take(self, events: Sequence[RawEvent]) -> None:
        """Fold a batch from Faust in; on return its rows and letters are with the broker.

        Raises RetryableError when the broker is away for longer than our patience.
        """
        if not self._ticked:
            self.tick()
        for run in self._without_gaps(events):
            self._fold(run)
        self.events_taken += len(events)

    def _without_gaps(self, events: Sequence[RawEvent]) -> Iterator[list[RawEvent]]:
        """The batch in as few runs as its holes allow; what is missing in between is folded meanwhile."""
        next_offset: dict[Partition, int] = {}
        run: list[RawEvent] = []
        for event in events:
            partition = (event.topic, event.partition)
            if partition not in next_offset:
                next_offset[partition] = self._position(partition) or 0
            if event.offset > next_offset[partition] and not _has_holes(event.topic):
                if run:
                    yield run
                    run = []
                self._catch_up({partition: event.offset})
            next_offset[partition] = max(next_offset[partition], event.offset + 1)
            run.append(event)
        if run:
            yield run

    def _position(self, partition: Partition) -> int | None:
        return self._step.positions([partition]).get(partition)

    def _catch_up(self, ends: Mapping[Partition, int], *, with_letters: bool = True) -> None:
        """Fold what the state lacks of these partitions before these offsets."""
        for topic in sorted({topic for topic, _ in ends}):
            failed_at: Spans | None = None
            while spans := self._lacking(topic, ends):
                try:
                    self._read_again(topic, spans, with_letters)
                    break
                except RetryableError:
                    if spans == failed_at:
                        raise
                    failed_at = spans

    def _lacking(self, topic: str, ends: Mapping[Partition, int]) -> dict[int, tuple[int, int]]:
        """Partition -> offsets of the topic that the state lacks."""
        spans = {
            number: (self._position((name, number)) or 0, end)
            for (name, number), end in ends.items()
            if name == topic
        }
        return {number: (start, end) for number, (start, end) in spans.items() if start < end}

    def _read_again(self, topic: str, spans: Spans, with_letters: bool) -> None:
        read = 0
        for batch in self._around.source.read(topic, spans):
            self._fold(batch, with_letters)
            read += len(batch)
        self._telemetry.gap_events.labels(self.name).inc(read)
        log.info("%s: read %d events of %s that the state lacked", self.name, read, topic)

    def _fold(self, events: Sequence[RawEvent], with_letters: bool = True) -> None:
        result = self._step.apply([self._unframed(event) for event in events])
        self._settle(result if with_letters else replace(result, letters=[]))
        for name, count in (result.counts or _counted(events, result.letters)).items():
            self._telemetry.events.labels(self.name, name).inc(count)
        lag_ms = self._around.now_ms() - events[-1].ingested_at_ms
        self._telemetry.lag_seconds.labels(self.name).set(max(0, lag_ms) / 1000)

    def _unframed(self, event: RawEvent) -> RawEvent:
        formats = self._around.formats
        if formats is None or event.topic not in TOPICS or (event.value or b"")[:1] != MAGIC:
            return event
        value, model = event.value or b"", TOPICS[event.topic].value
        try:
            return replace(event, read=self._patiently(lambda: formats.to_json(model, value)))
        except InvalidMessage as refused:
            return replace(event, read=refused)

    def tick(self) -> bool:
        """Let time pass; whether there is more to do right away."""
        self._ticked = True
        result = self._step.tick(self._around.now_ms())
        self._settle(result)
        return result.more

    def _settle(self, result: StepResult) -> None:
        """Send what a step returned, as often as it takes. A letter is never left out."""
        if not result.outputs and not result.letters:
            return
        sent = self._patiently(lambda: self._send(result))
        self._telemetry.outputs.labels(self.name).inc(sent)
        if held_back := len(result.outputs) - sent:
            self._telemetry.disowned.labels(self.name).inc(held_back)
            # At once: the step's next call would be told that all of the last one is with the broker.
            self._step.owned(self._still_ours(), self._behind)
        for letter in result.letters:
            self._telemetry.letters.labels(self.name, letter.reason.value).inc()

    def _send(self, result: StepResult) -> int:
        numbers = {number for _, number in self._around.owned()}
        ours: list[Output] = [one for one in result.outputs if one.owner is None or one.owner in numbers]
        self._around.outlet.send(ours, result.letters)
        return len(ours)

    def _still_ours(self) -> frozenset[Partition]:
        """What was assigned and has not gone since; what has come meanwhile is the next `assigned`'s."""
        now = self._around.owned()
        return now if self._assigned is None else now & self._assigned

    def _patiently(self, act: Callable[[], ResultT]) -> ResultT:
        """Try until the broker plays along, or patience is at its end."""
        waited, pause = 0.0, _FIRST_PAUSE_SECONDS
        while True:
            try:
                return act()
            except RetryableError as error:
                self._telemetry.retries.labels(self.name).inc()
                if waited >= self._around.patience_seconds:
                    raise
                log.warning("%s: %s; trying again in %.1f s", self.name, error, pause)
                self._around.pause(pause)
                waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def close(self) -> None:
        """Disconnect and release the store."""
        self._around.outlet.close()
        self._around.source.close()
        self._step.close()


def _has_holes(topic: str) -> bool:
    """Whether offsets may be missing by design: a compacted topic drops rows that newer ones replace."""
    return topic in TOPICS and TOPICS[topic].compacted


def _counted(events: Sequence[RawEvent], letters: Sequence[TurnedDown]) -> dict[str, int]:
    return {"applied": len(events) - len(letters), "dead_lettered": len(letters)}
