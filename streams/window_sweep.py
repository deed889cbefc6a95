"""What a change of day has to look at, in bounded pieces that a crash does not undo.

Time alone changes windows: counts enter them and leave them at midnight. A sweep takes one partition from
one day to a later one. It goes through the Pins with counts on the days that enter or leave a window,
day by day, Pin by Pin, and its place is stored when what it found is known to have been sent.

A partition that another worker had is swept anew: what that worker has told of it is not known here, so all
Pins of those days are told and not only those whose windows differ. Then come the Pins of events that were
folded behind the other worker's back, once each, as of the day that the partition is at by then.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import orjson

from features.day_buckets import LONGEST_DAYS, pack, touched_days, unpack

from .window_store import PinKey, WindowStore, WindowWrites

_SWEEP, _SWEPT = "sweep/", "swept/"


@dataclass(frozen=True)
class Sweep:
    """From the windows as of `before` (None: from nothing) to those as of `after`.

    Pins up to `pin` of `day` are done, and so are the days before it. `anew`: every Pin found is told.
    """

    partition: int
    before: int | None
    after: int
    day: int = -1
    pin: int = -1
    anew: bool = False

    def days(self) -> list[int]:
        """Days still to be gone through."""
        return [day for day in touched_days(self.before, self.after).tolist() if day >= self.day]


@dataclass(frozen=True)
class Found:
    """A piece of a sweep: Pins that are to be told, with the windows as of `after`.

    `sweep` is where it goes on, None when it is done. `expired` are the Pins with counts that left the
    longest window. `done` are those of which nothing is left to be told.
    """

    partition: int
    after: int
    pins: list[int]
    windows: Sequence[Sequence[Sequence[int]]]
    expired: list[int]
    sweep: Sweep | None
    done: Sequence[int] = ()


class Sweeps:
    """The day that each partition's windows are at, and the sweeps that move it on."""

    def __init__(self, store: WindowStore) -> None:
        self._store = store
        self._swept = {int(name.removeprefix(_SWEPT)): int(value) for name, value in store.metas(_SWEPT)}
        stored = [Sweep(**orjson.loads(value)) for _, value in store.metas(_SWEEP)]
        self._active = {sweep.partition: sweep for sweep in stored}

    def day_of(self, partition: int) -> int | None:
        """Day as of which this partition's windows are told; None when none was ever known."""
        sweep = self._active.get(partition)
        return sweep.after if sweep else self._swept.get(partition)

    def keep_from(self, partition: int) -> int:
        """First day whose counts this partition still needs."""
        swept = self._swept.get(partition)
        return 0 if swept is None else swept - LONGEST_DAYS

    def begin(self, partition: int, today: int) -> dict[str, bytes | None]:
        """Move this partition to `today`, if it is behind and not on its way; metadata to be written.

        A sweep that has begun is finished first, whatever day it is by then: what it has told already has
        to be what the next one compares with. A partition that has never been at a day starts at `today`
        when it has no counts yet.
        """
        swept = self._swept.get(partition)
        if partition in self._active or (swept is not None and swept >= today):
            return {}
        if swept is None and not self._holds_counts(partition):
            self._swept[partition] = today
            return {f"{_SWEPT}{partition}": b"%d" % today}
        return self._set_out(partition, today, anew=False)

    def take_over(self, partition: int, today: int) -> dict[str, bytes | None]:
        """Move this partition to `today` as one that another worker had; metadata to be written.

        A sweep that was under way to an earlier day would tell what is of a day gone by: it is begun anew.
        One to this day goes on, as it does after a crash.
        """
        active = self._active.get(partition)
        begun = self.begin(partition, today)
        if partition in self._active and (active is None or active.after < today):
            return self._set_out(partition, today, anew=True)
        return begun

    def _set_out(self, partition: int, after: int, *, anew: bool) -> dict[str, bytes | None]:
        before = self._swept.get(partition)
        if before is None:
            # As of the first day that has counts every window is empty: from nothing is from there.
            before = self._store.first_day(partition)
        sweep = self._active[partition] = Sweep(partition, before, after, anew=anew)
        return {f"{_SWEEP}{partition}": orjson.dumps(asdict(sweep))}

    def _holds_counts(self, partition: int) -> bool:
        return any(number == partition for _, number in self._store.positions)

    def next(self, owned: frozenset[int] | None, limit: int) -> Found | None:
        """The next piece of at most `limit` Pins, of an owned partition (None: all are); None at the end."""
        for partition in sorted(self._active):
            if owned is None or partition in owned:
                return self._piece(self._active[partition], limit)
        return None

    def untold(self, partitions: Iterable[int], limit: int) -> Found | None:
        """At most `limit` Pins of one of these partitions that wait to be told; None when none does."""
        for partition in sorted(partitions):
            day, pins = self.day_of(partition), self._store.pins_to_tell(partition, limit)
            if pins and day is not None:
                return self._waiting(partition, day, pins)
        return None

    def _waiting(self, partition: int, day: int, pins: list[int]) -> Found:
        buckets = unpack(self._store.counts([(partition, pin) for pin in pins]))
        # Without any count it was too old, or has expired, and was told before; with today's only it is new.
        told = np.flatnonzero(buckets.first_day() < day)
        windows = buckets.windows(day)[told].tolist()
        return Found(partition, day, [pins[place] for place in told.tolist()], windows, [], None, pins)

    def _piece(self, sweep: Sweep, limit: int) -> Found:
        days = np.array(sweep.days(), np.int64)
        for day in days.tolist():
            after = sweep.pin if day == sweep.day else -1
            pins = self._store.pins_of_day(sweep.partition, day, after, limit)
            if pins:
                return self._found(replace(sweep, day=day, pin=pins[-1]), pins)
        return Found(sweep.partition, sweep.after, [], [], [], None)

    def _found(self, sweep: Sweep, pins: list[int]) -> Found:
        buckets = unpack(self._store.counts([(sweep.partition, pin) for pin in pins]))
        # A Pin stands under several of the days: it is told on the first of them, and loses what has expired
        # on the last, because each of them asks for the first anew.
        first, last = buckets.first_and_last(touched_days(sweep.before, sweep.after))
        windows = buckets.windows(sweep.after)
        before = np.zeros_like(windows) if sweep.before is None else buckets.windows(sweep.before)
        changed = np.flatnonzero((first == sweep.day) & (sweep.anew | (windows != before).any(axis=(1, 2))))
        told = [pins[place] for place in changed.tolist()]
        expired = (last == sweep.day) & (buckets.first_day() < sweep.after - LONGEST_DAYS)
        return Found(
            sweep.partition,
            sweep.after,
            told,
            windows[changed].tolist(),
            [pins[place] for place in np.flatnonzero(expired).tolist()],
            sweep,
            told,
        )

    def settled(self, found: Found) -> WindowWrites:
        """What to write once a piece's rows are with the broker: its place, and less of what has expired."""
        writes, name = WindowWrites(), f"{_SWEEP}{found.partition}"
        writes.told = [(found.partition, pin) for pin in found.done]
        if found.expired:
            writes.counts = self._pruned([(found.partition, pin) for pin in found.expired], found.after)
        current = self._active.get(found.partition)
        if current is None or current.after != found.after:
            return writes
        if found.sweep is not None:
            self._active[found.partition] = found.sweep
            writes.meta[name] = orjson.dumps(asdict(found.sweep))
            return writes
        del self._active[found.partition]
        self._swept[found.partition] = found.after
        writes.meta |= {name: None, f"{_SWEPT}{found.partition}": b"%d" % found.after}
        writes.forget_days(found.partition, found.after - LONGEST_DAYS)
        return writes

    def _pruned(self, pins: list[PinKey], day: int) -> dict[PinKey, bytes]:
        left = unpack(self._store.counts(pins)).since(day - LONGEST_DAYS)
        return dict(zip(pins, pack(left), strict=True))
