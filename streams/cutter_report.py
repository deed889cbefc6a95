"""What a cutter counts, and the status that it makes of it."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from index.embedding_table import Applied, EmbeddingTable
from schemas.manifests import SnapshotManifest
from schemas.statuses import CandidateStatus, CutterStatus

from .cut_gate import NAMED, CutGate
from .cut_policy import Due
from .cutter_status import KEPT_MISSED_HOURS

log = logging.getLogger(__name__)

_EVERY_MS = 5_000
_MAX_SHARE = 0.02
"""A status may take this much of the cutter's time: with many Pins it is written less often."""


@dataclass
class CutterCounts:
    """What has happened since the start, for telemetry."""

    rows: Applied = field(default_factory=Applied)
    other_tiers_rows: int = 0
    late_rows: int = 0
    """Rows of an hour that was cut already when they came: the next snapshot has them."""
    dead_letters: int = 0
    snapshots: int = 0
    skipped_offsets: int = 0
    """Offsets that never came: compacted away, or evicted by an embedded broker before they were read."""
    newest_event_ms: int = 0
    missed_hours: int = 0


@dataclass(frozen=True)
class CutterPosition:
    """Live versions (serving first), position of each partition, and messages not read yet."""

    live: Sequence[str]
    positions: Mapping[int, int]
    lag_rows: int


class CutterReport:
    """The status of one cutter. `before` is what the cutter before it said last."""

    def __init__(
        self,
        tier: str,
        before: CutterStatus | None,
        now_ms: int,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._tier, self._started_ms, self._stopwatch = tier, now_ms, stopwatch
        self._last_hour_ms = before.last_hour_ms if before is not None else None
        self._missed_ms = list(before.missed_hours_ms) if before is not None else []
        self._missed = 0
        # A status of an older release has the list only.
        self._missed_before = max(before.missed_hours, len(self._missed_ms)) if before is not None else 0
        self._due_ms, self._every_ms = now_ms, _EVERY_MS

    def last_hour(self, resumed: Sequence[SnapshotManifest]) -> int | None:
        """The hour that was closed last, as far as is known; None before the first."""
        known = [one.hour_ms for one in resumed]
        if known and self._last_hour_ms is not None:
            # Without snapshots the status may speak of another data directory's past.
            known.append(self._last_hour_ms)
        return max(known, default=None)

    def cut(self, due: Due) -> None:
        """A cut is being made; says which ones were never made."""
        self._last_hour_ms = due.hour_ms
        if due.missed_ms:
            hours = ", ".join(_moment(hour) for hour in due.missed_ms)
            log.warning("hours never cut, nobody was there: %s; %s has them", hours, _moment(due.hour_ms))
            self._missed += len(due.missed_ms)
            self._missed_ms = [*self._missed_ms, *due.missed_ms][-KEPT_MISSED_HOURS:]

    def due(self, now_ms: int) -> bool:
        """Whether a status is due."""
        # A clock that was set back would otherwise keep the status as it is for as long as that.
        return not 0 < self._due_ms - now_ms <= self._every_ms

    def hasten(self) -> None:
        """Something changed that others wait for."""
        self._due_ms = 0

    def status(
        self, now_ms: int, counts: CutterCounts, at: CutterPosition, table: EmbeddingTable, gate: CutGate
    ) -> CutterStatus:
        """The status now; starts the next interval."""
        began = self._stopwatch()
        counts.missed_hours = self._missed
        live = at.live
        partitions = len(at.positions)
        status = CutterStatus(
            tier=self._tier,
            written_at_ms=now_ms,
            started_at_ms=self._started_ms,
            live=list(live),
            rows={version: table.size(version) for version in live},
            lag_rows=at.lag_rows,
            last_hour_ms=self._last_hour_ms,
            missed_hours_ms=self._missed_ms,
            late_rows=counts.late_rows,
            snapshots=counts.snapshots,
            candidates={one: _candidate(gate, one, live[0], partitions) for one in live[1:]},
            missed_hours=self._missed_before + self._missed,
            dead_letters=counts.dead_letters,
        )
        took_ms = 1000 * (self._stopwatch() - began)
        self._every_ms = max(_EVERY_MS, int(took_ms / _MAX_SHARE))
        self._due_ms = now_ms + self._every_ms
        return status


def _candidate(gate: CutGate, version: str, serving: str, partitions: int) -> CandidateStatus:
    coverage, lacks = gate.coverage(version, serving), gate.lacks(version)
    return CandidateStatus(
        pins=coverage.pins,
        of=coverage.of,
        covered=coverage.pins / coverage.of if coverage.of else 1.0,
        behind=coverage.behind,
        missing_pins=coverage.missing[:NAMED].tolist(),
        ready=not lacks,
        blocked=lacks,
        partitions=gate.shares(version, serving, partitions),
    )


def _moment(hour_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:00Z", time.gmtime(hour_ms / 1000))
