"""What each live tower costs a worker: CPU seconds of its forwards, rows and bytes that it makes.

Two towers are live during a rollover; the differences of these counts over that time are its price.
"""

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from features.pin_state import Records

from .embedded_rows import EmbeddedRows
from .telemetry import EnrichmentTelemetry, tower_label
from .tower_output import Embedded, PinEmbedder

_STATM = Path("/proc/self/statm")


@dataclass
class TowerCost:
    """One tower version, since this process began."""

    embed_cpu_seconds: float = 0.0
    rows: int = 0
    row_bytes: int = 0
    """Keys and values, before compression."""
    backfill_rows: int = 0
    """Of `rows`."""


class TowerCosts:
    """Counts by tower version, and by place in the live list on the way to Prometheus.

    `cpu_seconds` is a clock of CPU time: the calling thread's where towers compute in it, else the
    process's, which then counts the Kafka client's threads in.
    """

    def __init__(self, telemetry: EnrichmentTelemetry, cpu_seconds: Callable[[], float]) -> None:
        self._telemetry, self._cpu_seconds = telemetry, cpu_seconds
        self.by_version: dict[str, TowerCost] = {}

    def metered(self, towers: Sequence[PinEmbedder]) -> list[PinEmbedder]:
        """The same towers; what their forwards take is counted."""
        return [_Metered(self, place, tower) for place, tower in enumerate(towers)]

    def embed(self, place: int, tower: PinEmbedder, pins: Records) -> Embedded:
        """One forward. A failed one costs too."""
        start = self._cpu_seconds()
        try:
            return tower.embed(pins)
        finally:
            spent = self._cpu_seconds() - start
            self._of(tower.version).embed_cpu_seconds += spent
            self._telemetry.embed_cpu_seconds.labels(tower_label(place)).inc(spent)

    def produced(self, place: int, rows: EmbeddedRows, *, backfill: bool = False) -> None:
        """These rows were given to the producer."""
        cost = self._of(rows.tower_version)
        cost.rows += len(rows)
        cost.row_bytes += rows.size_bytes
        cost.backfill_rows += len(rows) if backfill else 0
        self._telemetry.row_bytes.labels(tower_label(place)).inc(rows.size_bytes)

    def _of(self, version: str) -> TowerCost:
        return self.by_version.setdefault(version, TowerCost())


@dataclass(frozen=True)
class _Metered:
    costs: TowerCosts
    place: int
    tower: PinEmbedder

    @property
    def version(self) -> str:
        return self.tower.version

    def embed(self, pins: Records, /) -> Embedded:
        return self.costs.embed(self.place, self.tower, pins)


def resident_bytes() -> int:
    """Resident memory of this process now; where the kernel does not tell, its peak."""
    try:
        return int(_STATM.read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # macOS counts bytes, the others KiB.
        return peak if sys.platform == "darwin" else peak * 1024
