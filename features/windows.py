"""Nested day windows (1, 7, 30, 90 days) of a count, point in time.

A window of n days as of day d holds days d-n to d-1. Day d itself is not counted: at its start none
of it has happened yet, and a feature that saw the rest of today would leak the label.
"""

import numpy as np
import numpy.typing as npt

from schemas.events import VISIT_WINDOWS_DAYS
from schemas.times import DAY_MS


class DayCounts:
    """Counts per key and day, for any number of keys, answering windows for all keys at once."""

    def __init__(
        self,
        slots: npt.NDArray[np.intp],
        occurred_at_ms: npt.NDArray[np.int64],
        *,
        keys: int,
        first_day: int,
        days: int,
    ) -> None:
        """`slots[i]` in 0 … keys-1 saw an event at `occurred_at_ms[i]`; days count from the epoch.

        Raises ValueError for an event outside the `days` days from `first_day`.
        """
        day = occurred_at_ms // DAY_MS - first_day
        if len(day) and (day.min() < 0 or day.max() >= days):
            raise ValueError(f"an event lies outside days {first_day} to {first_day + days - 1}")
        counts = np.bincount(slots * days + day, minlength=keys * days).reshape(keys, days)
        self._first_day = first_day
        self._before = np.zeros((keys, days + 1), np.int32)
        np.cumsum(counts, axis=1, out=self._before[:, 1:])

    def as_of(self, occurred_at_ms: int) -> npt.NDArray[np.int32]:
        """Counts in the windows that end at the start of that day: shape (keys, 4), rows never fall."""
        last = self._before.shape[1] - 1
        end = min(max(occurred_at_ms // DAY_MS - self._first_day, 0), last)
        starts = [max(end - window, 0) for window in VISIT_WINDOWS_DAYS]
        return self._before[:, [end]] - self._before[:, starts]
