"""How one enrichment worker works, and the clocks it works by."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from schemas.tiers import Tiers, single_tier

from .tower_costs import resident_bytes


@dataclass(frozen=True)
class WorkerSettings:
    """How one worker works. A batch is what came within `poll_seconds`, at most `batch_events`."""

    name: str = "worker-0"
    tiers: Tiers = field(default_factory=lambda: single_tier("realtime"))
    backfill: Literal["worker", "batch"] = "worker"
    """Who embeds the Pins that a new tower finds: this worker between its batches, or the batch job."""
    batch_events: int = 16_384
    poll_seconds: float = 0.05
    backfill_chunk_pins: int = 2048
    flush_seconds: float = 10.0
    flush_chunk_pins: int = 2048
    drain_seconds: float = 5.0
    """Longest time that a handover spends on flushing states; the next owner reads again what is left."""
    retry_seconds: float = 1.0
    watchdog_seconds: float = 120.0
    status_path: Path | None = None
    status_interval_seconds: float = 1.0


@dataclass(frozen=True)
class Times:
    """The wall clock, the clock of CPU time, how to wait; and how much memory the process has."""

    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    pause: Callable[[float], None] = time.sleep
    awake_seconds: Callable[[], float] = time.monotonic
    """For the watchdog: a machine that was suspended has done no work meanwhile, and that is no hang."""
    cpu_seconds: Callable[[], float] = time.thread_time
    """Of the calling thread; a worker whose towers use several takes the process's."""
    resident_bytes: Callable[[], int] = resident_bytes
