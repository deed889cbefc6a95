"""How one enrichment worker works, and the clocks it works by."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WorkerSettings:
    """How one worker works. A batch is what came within `poll_seconds`, at most `batch_events`."""

    name: str = "worker-0"
    tier: str = "realtime"
    batch_events: int = 8192
    poll_seconds: float = 0.05
    backfill_chunk_pins: int = 2048
    flush_seconds: float = 10.0
    flush_chunk_pins: int = 1024
    drain_seconds: float = 5.0
    """Longest time that a handover spends on flushing states; the next owner reads again what is left."""
    retry_seconds: float = 1.0
    watchdog_seconds: float = 120.0
    status_path: Path | None = None
    status_interval_seconds: float = 1.0


@dataclass(frozen=True)
class Times:
    """The wall clock, and how to wait."""

    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    pause: Callable[[float], None] = time.sleep
