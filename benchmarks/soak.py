"""What a process holds while it lives on: resident memory, open files and threads, and how memory grows."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

_SLOPE_SAMPLES = 3
"""Of fewer a line says nothing."""


class Observed(Protocol):
    """A process that can be looked at."""

    def rss_bytes(self) -> int:
        """Resident memory."""

    def open_files(self) -> int:
        """Open file descriptors."""

    def threads(self) -> int:
        """Threads."""


@dataclass(frozen=True)
class Sample:
    """One look, so many seconds after the process was ready."""

    age_seconds: float
    rss_bytes: int
    open_files: int
    threads: int


class Soak:
    """Samples of one process life after the other: at the start of each, then every so often.

    What is sampled sooner than one interval after the start belongs to the warm-up.
    """

    def __init__(self, every_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_seconds, self._clock = every_seconds, clock
        self._process: Observed
        self._born = self._due = 0.0
        self.lives: list[list[Sample]] = []

    def begin(self, process: Observed) -> None:
        """A new process is ready."""
        self._process, self._born = process, self._clock()
        self.lives.append([])
        self._due = self._born
        self.look()

    def look(self) -> None:
        """Take a sample, if one is due."""
        now = self._clock()
        if now < self._due:
            return
        self._due += self._every_seconds
        its = self._process
        sample = Sample(now - self._born, its.rss_bytes(), its.open_files(), its.threads())
        self.lives[-1].append(sample)

    def figures(self) -> dict[str, Any]:
        """Of the longest life: memory after its warm-up, the most files and threads, every sample.

        A sample is age in seconds, resident bytes, open files and threads. `rss_slope_share_per_hour` is of
        a straight line through the samples after the warm-up, over the first of them; None of fewer than
        three.
        """
        longest = max(self.lives, key=lambda life: life[-1].age_seconds)
        warm = [one for one in longest if one.age_seconds >= self._every_seconds]
        return {
            "lives": len(self.lives),
            "longest_life_seconds": round(longest[-1].age_seconds),
            "warm_up_seconds": self._every_seconds,
            "samples_after_warm_up": len(warm),
            "first_rss_bytes": warm[0].rss_bytes if warm else None,
            "last_rss_bytes": warm[-1].rss_bytes if warm else None,
            "rss_slope_share_per_hour": _slope(warm),
            "most_open_files": max(one.open_files for one in longest),
            "most_threads": max(one.threads for one in longest),
            "samples": [
                [round(one.age_seconds), one.rss_bytes, one.open_files, one.threads] for one in longest
            ],
        }


def _slope(samples: list[Sample]) -> float | None:
    """Growth of resident memory an hour, as a share of the first sample."""
    if len(samples) < _SLOPE_SAMPLES:
        return None
    ages, sizes = ([getattr(one, name) for one in samples] for name in ("age_seconds", "rss_bytes"))
    bytes_a_second = float(np.polyfit(ages, sizes, 1)[0])
    return round(bytes_a_second * 3_600 / samples[0].rss_bytes, 4)
