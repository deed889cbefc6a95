"""Time as an argument: the wall clock that stamps answers and the steady one that measures them."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """`now_ms` is wall-clock milliseconds since the epoch; `seconds` only ever grows, from any start."""

    now_ms: Callable[[], int]
    seconds: Callable[[], float]


def system_clock() -> Clock:
    """The machine's own clocks."""
    return Clock(now_ms=lambda: time.time_ns() // 1_000_000, seconds=time.perf_counter)


def seconds_since(then_ms: int, now_ms: int) -> float:
    """Age of something that happened at `then_ms`; 0 for what lies ahead. The one formula of every age."""
    return max(now_ms - then_ms, 0) / 1_000.0
