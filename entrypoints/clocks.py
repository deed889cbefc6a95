"""The clocks that commands and processes are given."""

import time


def now_ms() -> int:
    """Wall clock, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def since_boot_seconds() -> float:
    """A monotonic clock that goes on while the machine is suspended, where the system has one (Linux).

    By another one a worker on a machine that slept would not know that it was away.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
