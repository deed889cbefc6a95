"""Event time: when towers become ready, what was measured here, and the rules by which a design waits."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
WEEK_MS = 7 * 24 * HOUR_MS


@dataclass(frozen=True)
class Measured:
    """Milliseconds that this run measured on this machine, laid onto event time."""

    enrich: int = 0
    """A batch of changed Pins: the worker's poll, fold, tower, table."""
    backfill: int = 0
    """The whole catalogue through one tower."""
    release: int = 0
    """Cut, build with its gates, publish, load and warm."""
    shard: int = 0
    """An hourly shard written and read."""
    refresh: int = 0
    """Rows folded into what a server searches."""


@dataclass(frozen=True)
class Settings:
    """What each design is set to."""

    refresh_ms: int = 500
    """Ours: a server folds new rows in every so often (the default of `delta_refresh_seconds`)."""
    union_hours: int = 24
    """Hourly union: so many shards are loaded, and so often every Pin is embedded anew."""
    alias_after_ms: int = HOUR_MS
    """Alias: from a new checkpoint to the switch (embedding all, and a look at it)."""
    client_roll_ms: int = 2 * HOUR_MS
    """Alias: how long the query clients' rolling deployment takes; the switch is in its middle."""
    worker_roll_ms: int = 10 * MINUTE_MS
    """Alias: the same of the workers that embed updates."""


@dataclass(frozen=True)
class Timeline:
    """The stretch of event time, and when each version after the first is ready to be rolled out."""

    start_ms: int
    end_ms: int
    ready_ms: tuple[int, ...]
    measured: Measured = field(default_factory=Measured)
    settings: Settings = field(default_factory=Settings)

    @property
    def versions(self) -> int:
        """Version 0 serves from the start."""
        return len(self.ready_ms) + 1

    def newest(self, at_ms: Ints | int) -> Codes:
        """The newest version that is ready at each moment."""
        return code_at(self.ready_ms, at_ms)

    def hours(self) -> list[int]:
        """Every full hour in (start, end]."""
        return list(range(int(next_hour(self.start_ms + 1)), self.end_ms + 1, HOUR_MS))

    def next_ready(self, at_ms: Ints) -> Ints:
        """When the next checkpoint at or after each moment comes; after the last, one a week goes on."""
        ready = np.array(self.ready_ms, np.int64)
        weeks = np.maximum(-((ready[-1] - at_ms) // WEEK_MS), 0)
        later = ready[-1] + weeks * WEEK_MS
        place = np.searchsorted(ready, at_ms)
        return np.where(place < len(ready), ready[np.minimum(place, len(ready) - 1)], later)


def code_at(switches_ms: tuple[int, ...], at_ms: Ints | int) -> Codes:
    """How many of the ascending switches have happened at each moment: the version after them."""
    return np.atleast_1d(np.searchsorted(np.array(switches_ms, np.int64), at_ms, side="right")).astype(
        np.int8
    )


def next_hour(at_ms: Ints | int) -> Ints:
    """The first full hour at or after each moment."""
    return next_multiple(at_ms, HOUR_MS)


def next_multiple(at_ms: Ints | int, period_ms: int) -> Ints:
    """The first multiple of the period at or after each moment."""
    return -(-np.asarray(at_ms, np.int64) // period_ms) * period_ms


def uniform(ids: Ints, salt: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each id, always the same (the finaliser of splitmix64)."""
    mixed = ids.astype(np.uint64) + np.uint64((salt + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    fraction: npt.NDArray[np.float64] = (mixed >> np.uint64(11)).astype(np.float64) / 2**53
    return fraction
