"""What became of every release that was tried: served or refused, why, and how fresh it was."""

import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from schemas.errors import Refused

SWAPS_KEPT = 100


@dataclass(frozen=True)
class Freshness:
    """Event to servable: broker time of a Pin's newest event until a release that holds it is served."""

    rows: int
    p50_seconds: float
    p99_seconds: float


@dataclass(frozen=True)
class Swap:
    """One attempt to serve a release."""

    release_id: str
    previous_release_id: str | None
    result: Literal["served", "refused"]
    at_ms: int
    load_seconds: float
    code: str = ""
    expected: str = ""
    came: str = ""
    fix: str = ""
    freshness: Freshness | None = None


def refused_swap(release_id: str, previous: str | None, error: Refused, at_ms: int, seconds: float) -> Swap:
    """An attempt that was refused, in the refusal's own words."""
    return Swap(
        release_id, previous, "refused", at_ms, seconds, error.code, error.expected, error.came, error.fix
    )


def summarise(seconds: npt.NDArray[np.float64]) -> Freshness | None:
    """Quantiles of the rows that became servable, or None when none did."""
    if not len(seconds):
        return None
    p50, p99 = np.quantile(seconds, (0.5, 0.99)).tolist()
    return Freshness(len(seconds), p50, p99)


class SwapHistory:
    """The last `SWAPS_KEPT` attempts, newest first."""

    def __init__(self) -> None:
        self._swaps: deque[Swap] = deque(maxlen=SWAPS_KEPT)
        self._lock = threading.Lock()

    def add(self, swap: Swap) -> None:
        """Record an attempt."""
        with self._lock:
            self._swaps.appendleft(swap)

    def newest_first(self) -> list[Swap]:
        """Every attempt that is remembered."""
        with self._lock:
            return list(self._swaps)

    def as_json(self) -> list[dict[str, Any]]:
        """Plain data for status and console."""
        return [asdict(swap) for swap in self.newest_first()]
