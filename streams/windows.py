"""Day windows: visits and engagements per Pin and day in, `pin.aggregated.v1` out.

What is told is a pure function of the set of events and the day: a window of n days as of day d holds
the days d-n to d-1 (features/windows.py). It is told when a late event changes a past day, and when time
moves counts into a window or out of it, for the Pins to which that happens and no others.

Nothing is counted twice: a redelivered message has an offset that was had, a message that its producer
sent twice has CloudEvents `source` and `id` that were counted in the last `dedupe_days`. An event that
is dated more than a day after the broker took it in is turned down, by its own two times and not by our
clock, so that a rebuild decides alike.

While the state catches up with what another worker had, nothing is told: counts that are half there would
write over that worker's, which are whole. The Pins are remembered, and told when the state has all of it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from features.day_buckets import ENGAGEMENTS, LONGEST_DAYS, VISITS, pack, unpack
from schemas.codec import encode
from schemas.errors import DeadLetterReason
from schemas.events import PinAggregated
from schemas.times import DAY_MS
from schemas.topics import ENGAGEMENT_OBSERVED, PIN_AGGREGATED, VISIT_OBSERVED, Topic

from .positions import Partition
from .step_events import event_or_letter, pin_key
from .steps import Output, RawEvent, StepResult, TurnedDown
from .window_store import PinKey, WindowStore, WindowWrites, id_key
from .window_sweep import Found, Sweeps

_KINDS: dict[str, tuple[int, Topic]] = {
    VISIT_OBSERVED.name: (VISITS, VISIT_OBSERVED),
    ENGAGEMENT_OBSERVED.name: (ENGAGEMENTS, ENGAGEMENT_OBSERVED),
}
_HIGH = "high_day"
_DIGEST_BYTES = 16
RESULTS = ("counted", "redelivered", "duplicate", "too_old", "dead_lettered")


@dataclass(frozen=True)
class WindowSettings:
    """`clock`: whose day it is, the newest event's or the wall's. `sweep_pins`: most Pins of one tick."""

    clock: Literal["event", "wall"] = "event"
    dedupe_days: int = 2
    sweep_pins: int = 4096


@dataclass(frozen=True)
class _Seen:
    """A valid event. `repeated`: the state had this offset already."""

    partition: int
    pin: int
    kind: int
    day: int
    repeated: bool


class WindowsStep:
    """The day windows as a step; `streams.steps.Step`."""

    name = "windows"
    topics = (VISIT_OBSERVED.name, ENGAGEMENT_OBSERVED.name)
    results = RESULTS

    def __init__(self, store: WindowStore, settings: WindowSettings) -> None:
        self._store, self._settings = store, settings
        self._sweeps = Sweeps(store)
        stored = store.meta(_HIGH)
        self._today: int | None = int(stored) if stored and settings.clock == "event" else None
        self._owned: frozenset[int] | None = None
        self._taken_over: frozenset[int] = frozenset()
        self._behind = False
        self._unsettled: Found | None = None
        self._ids_from: dict[tuple[int, int], int] = {}

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """See `Step`."""
        had = self._store.positions
        return {partition: had[partition] for partition in partitions if partition in had}

    def owned(self, partitions: Iterable[Partition], behind: Iterable[Partition] = ()) -> None:
        """See `Step`: only the Pins of these partitions without those that are behind are told."""
        lacking = {number for _, number in behind}
        numbers = frozenset(number for _, number in partitions) - lacking
        self._taken_over = (self._taken_over | (numbers - (self._owned or frozenset()))) & numbers
        self._owned, self._behind = numbers, bool(lacking)
        # It may have been held back; its sweep has not moved on, and goes through it again.
        self._unsettled = None
        writes = WindowWrites()
        self._follow_the_day(writes)
        self._store.write(writes)

    def apply(self, events: Sequence[RawEvent]) -> StepResult:
        """See `Step`. Pins whose windows as of today an event changes, or may have changed, are told."""
        writes, counts = WindowWrites(), Counter[str]()
        self._settle()
        seen, letters = self._read(events, writes, counts)
        self._note_high(seen, writes)
        self._follow_the_day(writes)
        counted = [one for one in seen if not one.repeated and not self._too_old(one)]
        counts["counted"] = len(counted)
        counts["too_old"] = sum(not one.repeated for one in seen) - len(counted)
        outputs = self._count(seen, counted, writes)
        self._store.write(writes)
        return StepResult(outputs, letters, counts)

    def _read(
        self, events: Sequence[RawEvent], writes: WindowWrites, counts: Counter[str]
    ) -> tuple[list[_Seen], list[TurnedDown]]:
        """Valid events that are no duplicates, and letters; positions and new ids go into `writes`."""
        seen, letters, ids = [], [], _Ids(self._store, self._settings.dedupe_days, events)
        for event in events:
            partition = (event.topic, event.partition)
            had = writes.positions.get(partition, self._store.positions.get(partition, 0))
            repeated = event.offset < had
            writes.positions[partition] = max(had, event.offset + 1)
            one = _seen(event, repeated)
            if isinstance(one, TurnedDown):
                letters.append(one)
                counts["dead_lettered"] += 1
            elif not repeated and ids.counted_before(event):
                counts["duplicate"] += 1
            else:
                counts["redelivered"] += repeated
                seen.append(one)
        writes.ids = ids.new
        for (topic, number), before in ids.needed_from().items():
            # Once a day: every range that is deleted costs each later look-up something.
            if before > self._ids_from.get((topic, number), -1):
                self._ids_from[topic, number] = before
                writes.forget_ids(topic, number, before)
        return seen, letters

    def _note_high(self, seen: Sequence[_Seen], writes: WindowWrites) -> None:
        if self._settings.clock == "event" and seen:
            newest = max(one.day for one in seen)
            if self._today is None or newest > self._today:
                self._today = newest
                writes.meta[_HIGH] = b"%d" % newest

    def _follow_the_day(self, writes: WindowWrites) -> None:
        """Begin what the day asks for, for every owned partition that is not at it."""
        # What is still to be folded may be of a later day.
        if self._today is None or self._behind:
            return
        numbers = self._ours({number for _, number in (*self._store.positions, *writes.positions)})
        for number in sorted(numbers):
            begin = self._sweeps.take_over if number in self._taken_over else self._sweeps.begin
            writes.meta |= begin(number, self._today)
        self._taken_over -= numbers

    def _ours(self, numbers: Set[int]) -> frozenset[int]:
        """Those of them that are this worker's to speak for."""
        return frozenset(numbers) if self._owned is None else self._owned & numbers

    def _too_old(self, one: _Seen) -> bool:
        """Whether no window as of today or later can hold it."""
        day = self._sweeps.day_of(one.partition)
        return day is not None and one.day < day - LONGEST_DAYS

    def _count(self, seen: Sequence[_Seen], counted: Sequence[_Seen], writes: WindowWrites) -> list[Output]:
        """Add to the Pins' counts; rows of those whose windows as of today it changes."""
        pins = sorted({(one.partition, one.pin) for one in seen})
        slots = {pin: slot for slot, pin in enumerate(pins)}
        where = np.array([slots[one.partition, one.pin] for one in counted], np.int64)
        kind = np.array([one.kind for one in counted], np.int64)
        day = np.array([one.day for one in counted], np.int64)
        keep_from = np.array([self._sweeps.keep_from(partition) for partition, _ in pins], np.int64)
        buckets = unpack(self._store.counts(pins)).since(keep_from).added(where, kind, day)
        changed = set(where.tolist())
        writes.counts |= {pins[slot]: value for slot, value in enumerate(pack(buckets)) if slot in changed}
        writes.days |= {(one.partition, one.day, one.pin) for one in counted}
        ours = self._ours({one.partition for one in seen})
        writes.to_tell = {(one.partition, one.pin) for one in seen if one.partition not in ours}
        shown = {slots[one.partition, one.pin] for one in seen if one.partition in ours and self._shows(one)}
        told = sorted(shown)
        as_of = np.array([self._sweeps.day_of(partition) or 0 for partition, _ in pins], np.int64)
        windows = buckets.windows(as_of)[told].tolist()
        return [_row(pins[slot], int(as_of[slot]), one) for slot, one in zip(told, windows, strict=True)]

    def _shows(self, one: _Seen) -> bool:
        """Whether its day is over.

        Also when it is too old to count: a store that is built anew, with the Pin's last counts expired
        meanwhile, knows of the Pin by such an event only.
        """
        day = self._sweeps.day_of(one.partition)
        return day is not None and one.day < day

    def tick(self, now_ms: int) -> StepResult:
        """See `Step`. One piece of what a change of day asks for; by the wall's clock this is the change."""
        writes = WindowWrites()
        self._settle()
        if self._settings.clock == "wall":
            self._today = max(now_ms // DAY_MS, self._today or 0)
        if self._behind:
            return StepResult()
        self._follow_the_day(writes)
        self._store.write(writes)
        most, numbers = self._settings.sweep_pins, self._ours({number for _, number in self._store.positions})
        found = self._sweeps.next(self._owned, most) or self._sweeps.untold(numbers, most)
        if found is None:
            return StepResult()
        self._unsettled = found
        rows = zip(found.pins, found.windows, strict=True)
        outputs = [_row((found.partition, pin), found.after, windows) for pin, windows in rows]
        return StepResult(outputs, more=True)

    def _settle(self) -> None:
        """What the last tick returned is with the broker by now."""
        if self._unsettled is not None:
            found, self._unsettled = self._unsettled, None
            self._store.write(self._sweeps.settled(found))

    def close(self) -> None:
        """See `Step`."""
        self._store.close()


def _seen(event: RawEvent, repeated: bool) -> _Seen | TurnedDown:
    kind, topic = _KINDS[event.topic]
    one: Any = event_or_letter(event, topic, pin_key)
    if isinstance(one, TurnedDown):
        return one
    if one.occurred_at_ms > event.ingested_at_ms + DAY_MS:
        detail = f"occurred_at_ms is {one.occurred_at_ms}, more than a day after it came in"
        return TurnedDown(event, DeadLetterReason.FUTURE_EVENT, detail)
    return _Seen(event.partition, one.pin_id, kind, one.occurred_at_ms // DAY_MS, repeated)


def _row(pin: PinKey, day: int, windows: Sequence[Sequence[int]]) -> Output:
    row = PinAggregated(
        pin_id=pin[1],
        occurred_at_ms=day * DAY_MS,
        offsite_visits=list(windows[VISITS]),
        engagements=list(windows[ENGAGEMENTS]),
    )
    return Output(PIN_AGGREGATED.name, b"%d" % pin[1], encode(row), owner=pin[0])


class _Ids:
    """Which events of one batch were counted before, by CloudEvents source and id."""

    def __init__(self, store: WindowStore, dedupe_days: int, events: Sequence[RawEvent]) -> None:
        self._days = dedupe_days
        self._keys = {id(event): key for event in events if (key := self._ids(event))}
        asked = [key for keys in self._keys.values() for key in keys]
        self._stored = {key for key, known in zip(asked, store.known(asked), strict=True) if known}
        self._newest: dict[tuple[int, int], int] = {}
        self.new: list[bytes] = []

    def _ids(self, event: RawEvent) -> list[bytes]:
        """Where its id would stand if it was counted: today's first, then the days before."""
        headers = dict(event.headers)
        source, name = headers.get("ce_source"), headers.get("ce_id")
        if not source or not name or not self._days:
            return []
        digest = hashlib.blake2b(source + b"\0" + name, digest_size=_DIGEST_BYTES).digest()
        topic, today = _KINDS[event.topic][0], _ingested_day(event)
        days = range(today, max(today - self._days, 0) - 1, -1)
        return [id_key(topic, event.partition, day, digest) for day in days]

    def counted_before(self, event: RawEvent) -> bool:
        """Also remembers it, when not."""
        keys = self._keys.get(id(event))
        if not keys:
            return False
        if not self._stored.isdisjoint(keys):
            return True
        self._stored.add(keys[0])
        self.new.append(keys[0])
        place = (_KINDS[event.topic][0], event.partition)
        self._newest[place] = max(self._newest.get(place, 0), _ingested_day(event))
        return False

    def needed_from(self) -> dict[tuple[int, int], int]:
        """(topic, partition) -> first day whose ids are still looked for."""
        return {place: max(day - self._days, 0) for place, day in self._newest.items()}


def _ingested_day(event: RawEvent) -> int:
    return min(max(event.ingested_at_ms // DAY_MS, 0), 0xFFFF)
