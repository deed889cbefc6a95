"""Impressions and conversions → training rows: one per impression, when its window is over.

What a row says is a function of the events alone: of neither their order across topics, nor how they
were cut into batches, nor of crashes. It needs that a topic is in order within `lateness_ms` inside a
partition; what comes later than that is counted and left out (`streams.event_clock` says when time
passes, `streams.attribution_windows` what is credited to whom).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from schemas.codec import encode
from schemas.errors import DeadLetterReason
from schemas.events import EngagementObserved, VisitObserved
from schemas.impressions import ImpressionAttributed, ImpressionServed
from schemas.times import DAY_MS
from schemas.topics import (
    ENGAGEMENT_OBSERVED,
    IMPRESSION_ATTRIBUTED,
    IMPRESSION_SERVED,
    VISIT_OBSERVED,
    Topic,
)

from .attribution_store import (
    NOBODY,
    AttributionStore,
    Due,
    Group,
    conversion_key,
    due_key,
    group_of,
    impression_key,
    put_newest,
    put_watermark,
    request_key,
    served_of,
)
from .attribution_telemetry import AttributionTelemetry
from .attribution_windows import KINDS, AttributionWindows, Conversion, ServedAt, credited
from .event_clock import ClockRules, EventClock
from .positions import Partition
from .step_events import event_or_letter, pin_key
from .step_store import Changes
from .steps import Output, RawEvent, StepResult, TurnedDown

_SOURCES: dict[str, Topic] = {
    topic.name: topic for topic in (IMPRESSION_SERVED, VISIT_OBSERVED, ENGAGEMENT_OBSERVED)
}
RESULTS = (
    "applied",
    "redelivered",
    "late_impression",
    "late_conversion",
    "unknown_visitor",
    "dead_lettered",
)
"""What becomes of an event. `late_impression`: its window was over before it came, or it came twice.
`late_conversion`: so old that every impression it could belong to is over. `unknown_visitor`: normal."""

_FUTURE_MS = DAY_MS
"""No clock is wrong by more: such an event would wait in the state until its day comes."""


@dataclass(frozen=True)
class AttributionRules:
    """Windows, the disorder allowed inside a topic, and the wall clock after which a silent one is idle."""

    windows: AttributionWindows = field(default_factory=AttributionWindows)
    lateness_ms: int = 60_000
    idle_ms: int = 300_000
    most_closed: int = 20_000
    """Entries that one call removes at most, so that a jump in time does not fill the memory."""


class AttributionStep:
    """impression.served.v1 ⋈ visits and engagements of the same user and Pin → impression.attributed.v1."""

    name = "attribution"
    topics = tuple(_SOURCES)
    results = RESULTS

    def __init__(self, path: Path, rules: AttributionRules, telemetry: AttributionTelemetry) -> None:
        """`path`: directory of the state. Raises Refused when it was made with other windows."""
        self._rules, self._telemetry = rules, telemetry
        self._longest_ms = rules.windows.longest_ms
        self._store = AttributionStore(path, rules.windows)
        self._watermarks = self._store.watermarks()
        clock_rules = ClockRules(rules.lateness_ms, rules.idle_ms)
        self._clock = EventClock(self.topics, clock_rules, self._store.newest(), self._watermarks)
        self._owned: frozenset[int] | None = None

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """See `Step`."""
        return self._store.positions(partitions)

    def owned(self, partitions: Iterable[Partition], behind: Iterable[Partition] = ()) -> None:
        """See `Step`. Until then time passes in all partitions that were seen."""
        numbers = frozenset(number for _, number in partitions)
        for number in numbers - (self._owned or frozenset()):
            self._clock.forget_silence(number)
        self._store.own(numbers)
        self._owned = numbers

    def apply(self, events: Sequence[RawEvent]) -> StepResult:
        """See `Step`."""
        changes, letters, counts = Changes(), [], Counter[str]()
        touched: set[Partition] = set()
        for event in events:
            partition = (event.topic, event.partition)
            message = self._read(event)
            # Of visits and engagements the windows step writes the letter: two of one would both be replayed.
            if isinstance(message, TurnedDown) and event.topic == IMPRESSION_SERVED.name:
                letters.append(message)
            result = "dead_lettered" if isinstance(message, TurnedDown) else "redelivered"
            if event.offset >= changes.positions.get(partition, self._store.position(partition)):
                changes.positions[partition] = event.offset + 1
                if not isinstance(message, TurnedDown):
                    result = self._take(event, message, changes)
                    touched.add(partition)
            counts[result] += 1
        for partition in touched:
            put_newest(changes, partition, self._clock.newest[partition])
        self._store.write(changes)
        outputs, more = self._close_windows({number for _, number in touched})
        return StepResult(outputs, letters, counts, more)

    def tick(self, now_ms: int) -> StepResult:
        """See `Step`."""
        self._clock.tick(now_ms)
        numbers = {number for _, number in self._store.seen()} if self._owned is None else self._owned
        for number in numbers:
            self._clock.watch(number)
        outputs, more = self._close_windows(numbers)
        if reached := [at_ms for number in numbers if (at_ms := self._clock.watermark(number))]:
            self._telemetry.watermark.set(min(reached) / 1000)
        self._telemetry.state_keys.set(self._store.estimated_keys())
        return StepResult(outputs, more=more)

    def compact(self) -> None:
        """Give back the room of closed windows on disk now."""
        self._store.compact()

    def close(self) -> None:
        """See `Step`."""
        self._store.close()

    def _read(self, event: RawEvent) -> Any:
        message = event_or_letter(event, _SOURCES[event.topic], pin_key)
        if not isinstance(message, TurnedDown) and event.ingested_at_ms > 0:
            ahead_ms = _occurred(message) - event.ingested_at_ms
            if ahead_ms > _FUTURE_MS:
                came = f"it happened {ahead_ms} ms after the broker had it"
                return TurnedDown(event, DeadLetterReason.FUTURE_EVENT, came)
        return message

    def _take(self, event: RawEvent, message: Any, changes: Changes) -> str:
        """Fold one event in; what became of it, one of `RESULTS`."""
        at_ms, number = _occurred(message), event.partition
        # A clock that is ahead must not hurry the others: time is at most the broker's.
        seen_ms = min(at_ms, event.ingested_at_ms) if event.ingested_at_ms > 0 else at_ms
        self._clock.saw((event.topic, number), seen_ms)
        over = at_ms + self._longest_ms < self._watermarks.get(number, 0)
        if isinstance(message, ImpressionServed):
            if over:
                return "late_impression"
            self._open(message, number, changes)
        elif message.user_id is None:
            return "unknown_visitor"
        elif over:
            return "late_conversion"
        else:
            self._keep(message, number, changes)
        return "applied"

    def _open(self, message: ImpressionServed, number: int, changes: Changes) -> None:
        user = NOBODY if message.user_id is None else message.user_id
        served = ServedAt(message.served_at_ms, message.request_id.encode())
        entry = impression_key(Group(message.pin_id, user), served)
        # Not as it came: that may be framed by a schema registry, or JSON that another parser refuses.
        changes.puts[entry] = encode(message)
        changes.puts[request_key(Group(message.pin_id, user), served)] = b""
        changes.puts[due_key(number, served.served_at_ms + self._longest_ms, entry)] = b""

    def _keep(self, message: VisitObserved | EngagementObserved, number: int, changes: Changes) -> None:
        conversion = _conversion(message)
        entry = conversion_key(Group(message.pin_id, message.user_id or 0), conversion)
        changes.puts[entry] = b""
        # One more than its last possible impression: that one has to be through first.
        changes.puts[due_key(number, conversion.occurred_at_ms + self._longest_ms + 1, entry)] = b""

    def _close_windows(self, numbers: Iterable[int]) -> tuple[list[Output], bool]:
        """Rows of what is over, removed with all that nothing open needs; and whether there is more."""
        changes, left = Changes(), self._rules.most_closed
        for number in sorted(numbers):
            watermark = self._clock.watermark(number)
            swept: Due | None = None
            for due in self._store.due(number, watermark):
                if not left:
                    break
                left -= 1
                swept = due
                self._finish(due, number, changes)
            if swept is not None or watermark > self._watermarks.get(number, 0):
                put_watermark(changes, number, watermark)
                self._watermarks[number] = watermark
            if swept is not None:
                self._store.swept(number, swept.key)
        return self._store.finish(changes), not left

    def _finish(self, due: Due, number: int, changes: Changes) -> None:
        if due.key in changes.deletes:
            return
        if due.is_impression:
            changes.outputs.append(self._row(due, number, changes))
        changes.deletes |= {due.key, due.entry}

    def _row(self, due: Due, number: int, changes: Changes) -> Output:
        """The row of an impression; repeats of its request are removed with it."""
        group, own, conversion = group_of(due.entry), served_of(due.entry), None
        ends_at_ms = own.served_at_ms + self._longest_ms
        changes.deletes.add(request_key(group, own))
        for repeat in self._store.repeats(group, own, ends_at_ms):
            entry = impression_key(group, repeat)
            queued = due_key(number, repeat.served_at_ms + self._longest_ms, entry)
            changes.deletes |= {entry, queued, request_key(group, repeat)}
        if group.user_id != NOBODY:
            until_ms = self._touched_until(group, own, changes)
            happened = self._store.conversions(group, own.served_at_ms, until_ms)
            conversion = credited(own.served_at_ms, happened, self._rules.windows)
        self._telemetry.rows.labels("no" if conversion is None else "yes").inc()
        return _output(self._store.get(due.entry) or b"", ends_at_ms, conversion, number)

    def _touched_until(self, group: Group, own: ServedAt, changes: Changes) -> int:
        """When the next impression of the user and the Pin takes the touch over, or the window ends.

        NOTE: no list of all that are open: a user may have one every second of a week, and each has its row.
        """
        over_ms = own.served_at_ms + self._longest_ms + 1
        for one in self._store.impressions(group, own):
            if one.served_at_ms >= over_ms:
                break
            if one != own and impression_key(group, one) not in changes.deletes:
                return one.served_at_ms
        return over_ms


def _occurred(message: Any) -> int:
    time_ms: int = message.served_at_ms if isinstance(message, ImpressionServed) else message.occurred_at_ms
    return time_ms


def _conversion(message: VisitObserved | EngagementObserved) -> Conversion:
    if isinstance(message, VisitObserved):
        return Conversion(message.occurred_at_ms, KINDS.index("visit"), 0)
    return Conversion(message.occurred_at_ms, KINDS.index(message.kind), -message.value_micros)


def _output(message: bytes, window_ends_at_ms: int, conversion: Conversion | None, owner: int) -> Output:
    fields = orjson.loads(message)
    fields |= {"window_ends_at_ms": window_ends_at_ms, "converted": conversion is not None}
    if conversion is not None:
        fields |= {
            "conversion_kind": KINDS[conversion.kind],
            "converted_at_ms": conversion.occurred_at_ms,
            "value_micros": -conversion.minus_value_micros,
        }
    row = ImpressionAttributed.model_validate(fields)
    key = f"{row.request_id}:{row.pin_id}".encode()
    return Output(IMPRESSION_ATTRIBUTED.name, key, encode(row), owner=owner)
