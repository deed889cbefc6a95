"""When a snapshot is cut: at the end of each hour of event time, or by the clock on the wall.

A policy is a value: `step` looks at the next rows and the time, and says before which row a cut is
due and what the policy is from there on.
"""

import logging
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from schemas.times import HOUR_MS

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
ClockName = Literal["event", "wall"]


@dataclass(frozen=True)
class Due:
    """A cut that is due before row `row` of the rows looked at, closing the hour that began at `hour_ms`.

    `missed_ms` are the hours before it whose cut never came: nobody was there to make it.
    """

    row: int
    hour_ms: int
    missed_ms: tuple[int, ...] = ()


class CutPolicy(Protocol):
    """A pure function of times."""

    @property
    def clock(self) -> ClockName:
        """What `hour_ms` of its cuts means."""
        ...

    def step(self, occurred_at_ms: Ints, now_ms: int) -> tuple[Due | None, "CutPolicy"]:
        """The first cut among these rows (may be none of them), and the policy after it.

        Without a cut the rows are seen; with one, those from its row on have to be shown again.
        """
        ...

    def after_cut_of(self, hour_ms: int) -> "CutPolicy":
        """The policy of a cutter that resumes from a snapshot of this hour."""
        ...

    def open_hour_ms(self, now_ms: int) -> int:
        """Start of the hour that a cut made now would close."""
        ...

    def late(self, occurred_at_ms: Ints) -> int:
        """How many of these rows happened in an hour that is over: the next snapshot has them."""
        ...


@dataclass(frozen=True)
class EventTimeCut:
    """Cut when the first row of a later hour shows up: the snapshot has what came before it.

    A row of an hour that is cut already belongs to the next snapshot. Hours without rows are not cut.
    """

    open_ms: int | None = None

    clock: ClassVar[ClockName] = "event"

    def step(self, occurred_at_ms: Ints, now_ms: int) -> tuple[Due | None, Self]:
        """See `CutPolicy`; `now_ms` does not matter."""
        if not len(occurred_at_ms):
            return None, self
        hours = occurred_at_ms // HOUR_MS * HOUR_MS
        open_ms = int(hours[0]) if self.open_ms is None else self.open_ms
        later = np.flatnonzero(hours > open_ms)
        if not len(later):
            return None, replace(self, open_ms=open_ms)
        row = int(later[0])
        return Due(row, open_ms), replace(self, open_ms=int(hours[row]))

    def after_cut_of(self, hour_ms: int) -> Self:
        """See `CutPolicy`."""
        return replace(self, open_ms=hour_ms + HOUR_MS)

    def open_hour_ms(self, now_ms: int) -> int:
        """See `CutPolicy`; the hour of `now_ms` before any row was seen."""
        return _hour(now_ms) if self.open_ms is None else self.open_ms

    def late(self, occurred_at_ms: Ints) -> int:
        """See `CutPolicy`."""
        return _before(occurred_at_ms, self.open_ms)


@dataclass(frozen=True)
class WallClockCut:
    """Cut whenever the wall clock enters another period: each hour, or more often for a demo.

    A cutter that was away when a period ended cuts once when it is back, for the newest hour that is
    over; the hours before that one are missed. After a clock that was ahead has been set back by more than
    a period, the period of now is the open one.
    """

    every_seconds: float = 3600.0
    open_ms: int | None = None
    resumed_hour_ms: int | None = None

    clock: ClassVar[ClockName] = "wall"

    def step(self, occurred_at_ms: Ints, now_ms: int) -> tuple[Due | None, Self]:
        """See `CutPolicy`; what the rows say does not matter."""
        period_ms = max(int(self.every_seconds * 1000), 1)
        begun_ms = now_ms // period_ms * period_ms
        open_ms = begun_ms if self.open_ms is None else self.open_ms
        if self.resumed_hour_ms is not None:
            open_ms = min(self.resumed_hour_ms + HOUR_MS, begun_ms)
        if open_ms > begun_ms + period_ms:
            log.warning(
                "the clock went back by %d s: what was cut meanwhile is of hours that have not come",
                (open_ms - begun_ms) // 1000,
            )
            open_ms = begun_ms
        if begun_ms <= open_ms:
            return None, replace(self, open_ms=open_ms, resumed_hour_ms=None)
        hour_ms = _hour(begun_ms - 1)
        missed = range(_hour(open_ms + period_ms - 1), hour_ms, max(period_ms, HOUR_MS))
        return Due(0, hour_ms, tuple(missed)), replace(self, open_ms=begun_ms, resumed_hour_ms=None)

    def after_cut_of(self, hour_ms: int) -> Self:
        """See `CutPolicy`: the period after it is open, and may be over already."""
        return replace(self, open_ms=None, resumed_hour_ms=hour_ms)

    def open_hour_ms(self, now_ms: int) -> int:
        """See `CutPolicy`."""
        return _hour(now_ms)

    def late(self, occurred_at_ms: Ints) -> int:
        """See `CutPolicy`."""
        return _before(occurred_at_ms, self.open_ms)


def _hour(moment_ms: int) -> int:
    return moment_ms // HOUR_MS * HOUR_MS


def _before(occurred_at_ms: Ints, open_ms: int | None) -> int:
    return 0 if open_ms is None else int((occurred_at_ms < _hour(open_ms)).sum())
