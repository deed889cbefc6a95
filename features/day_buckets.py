"""Day counts of many Pins as compact bytes, and the windows over them; all in arrays, no loops over days.

One Pin's bytes are 16-bit little-endian words: how many of the entries are visits, then an entry per
kind and day that saw anything: day since the epoch, count. A count beyond 65,535 takes several entries
of its day. Ten active days are 42 bytes, where a ring of 91 days of both kinds would take 364.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.events import VISIT_WINDOWS_DAYS

Ints = npt.NDArray[np.int64]

VISITS, ENGAGEMENTS = 0, 1
KINDS = 2
LONGEST_DAYS = max(VISIT_WINDOWS_DAYS)

_WORD = np.dtype("<u2")
_ENTRY_MAX = 0xFFFF
LAST_DAY = 0xFFFF
"""The last day that an entry can name: in the year 2149."""


@dataclass(frozen=True)
class DayBuckets:
    """Counts by (slot, kind, day), flat; `slots` Pins, of which some may have no entry."""

    slots: int
    slot: Ints
    kind: Ints
    day: Ints
    count: Ints

    def since(self, first_day: int | Ints) -> "DayBuckets":
        """Without the days before `first_day`, which may be one for all or one per slot."""
        keep = self.day >= self._per_entry(first_day)
        return DayBuckets(self.slots, self.slot[keep], self.kind[keep], self.day[keep], self.count[keep])

    def added(self, slot: Ints, kind: Ints, day: Ints) -> "DayBuckets":
        """With one event more at each of these places."""
        return DayBuckets(
            self.slots,
            np.concatenate([self.slot, slot]),
            np.concatenate([self.kind, kind]),
            np.concatenate([self.day, day]),
            np.concatenate([self.count, np.ones(len(slot), np.int64)]),
        )

    def _per_entry(self, day: int | Ints) -> Ints:
        return np.broadcast_to(np.asarray(day, np.int64), self.slots)[self.slot]

    def windows(self, day: int | Ints) -> npt.NDArray[np.int64]:
        """Counts in the windows as of the start of `day` (it and later days do not count).

        `day` may be one for all or one per slot. Shape (slots, kinds, windows); along the last axis counts
        never fall.
        """
        age = self._per_entry(day) - self.day
        found = np.zeros((self.slots, KINDS, len(VISIT_WINDOWS_DAYS)), np.int64)
        for place, days in enumerate(VISIT_WINDOWS_DAYS):
            inside = (age >= 1) & (age <= days)
            np.add.at(found[:, :, place], (self.slot[inside], self.kind[inside]), self.count[inside])
        return found

    def first_day(self) -> Ints:
        """Per slot the first day on which it has a count; -1 where there is none."""
        return self._first(np.full(len(self.day), True))

    def first_and_last(self, days: Ints) -> tuple[Ints, Ints]:
        """Per slot the first and the last of these days on which it has a count; -1 where there is none."""
        inside = np.isin(self.day, days)
        last = np.full(self.slots, -1, np.int64)
        np.maximum.at(last, self.slot[inside], self.day[inside])
        return self._first(inside), last

    def _first(self, counts: npt.NDArray[np.bool_]) -> Ints:
        first = np.full(self.slots, np.iinfo(np.int64).max)
        np.minimum.at(first, self.slot[counts], self.day[counts])
        return np.where(first == np.iinfo(np.int64).max, -1, first)


def unpack(values: Sequence[bytes | None]) -> DayBuckets:
    """Stored bytes -> buckets, slot i from `values[i]`; None is a Pin without counts."""
    lengths = np.array([0 if value is None else len(value) // 2 for value in values], np.int64)
    words = np.frombuffer(b"".join([value for value in values if value is not None]), _WORD).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    stored = lengths > 0
    visits = np.zeros(len(values), np.int64)
    visits[stored] = words[starts[stored]]
    entries = np.where(stored, (lengths - 1) // 2, 0)
    slot = np.repeat(np.arange(len(values)), entries)
    place = np.arange(entries.sum()) - np.repeat(np.cumsum(entries) - entries, entries)
    at = starts[slot] + 1 + 2 * place
    kind = np.where(place < visits[slot], VISITS, ENGAGEMENTS)
    return DayBuckets(len(values), slot, kind, words[at], words[at + 1])


def pack(buckets: DayBuckets) -> list[bytes]:
    """Inverse of `unpack`, with one entry per kind and day; a slot without entries gives empty bytes."""
    slot, kind, day, count = _merged(buckets)
    # A day of more than 65,535 takes as many entries as it needs.
    pieces = -(-count // _ENTRY_MAX)
    last = np.cumsum(pieces) - 1
    slot, kind, day = (np.repeat(one, pieces) for one in (slot, kind, day))
    sizes = np.full(len(slot), _ENTRY_MAX, np.int64)
    sizes[last] = count - (pieces - 1) * _ENTRY_MAX
    entries = np.bincount(slot, minlength=buckets.slots)
    lengths = np.where(entries > 0, 1 + 2 * entries, 0)
    starts = np.cumsum(lengths) - lengths
    words = np.zeros(int(lengths.sum()), _WORD)
    visits = np.bincount(slot[kind == VISITS], minlength=buckets.slots)
    words[starts[entries > 0]] = visits[entries > 0]
    place = np.arange(len(slot)) - np.repeat(np.cumsum(entries) - entries, entries)
    at = starts[slot] + 1 + 2 * place
    words[at], words[at + 1] = day, sizes
    packed = words.tobytes()
    return [
        packed[2 * start : 2 * (start + length)]
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]


def _merged(buckets: DayBuckets) -> tuple[Ints, Ints, Ints, Ints]:
    """Slot, kind, day and count, one row each, ascending."""
    place = (buckets.slot * KINDS + buckets.kind) * (LAST_DAY + 1) + buckets.day
    unique, inverse = np.unique(place, return_inverse=True)
    count = np.bincount(inverse, weights=buckets.count, minlength=len(unique)).astype(np.int64)
    owner, day = np.divmod(unique, LAST_DAY + 1)
    return owner // KINDS, owner % KINDS, day, count


def touched_days(before: int | None, after: int) -> Ints:
    """Days whose counts enter or leave a window when the day moves from `before` to `after`; ascending.

    Without a `before`: all that are in a window as of `after`. Windows move by the day, so a step of one
    day touches five days whatever their length. No day is before the epoch.
    """
    if before is None:
        return np.arange(max(after - LONGEST_DAYS, 0), after)
    days = [np.arange(before, after)]
    days += [np.arange(before - window, after - window) for window in VISIT_WINDOWS_DAYS]
    unique = np.unique(np.concatenate(days))
    return unique[(unique >= max(before - LONGEST_DAYS, 0)) & (unique < after)]
