"""Counts what one enrichment worker has done, for its status file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from schemas.statuses import BackfillStatus, TowerStatus, WorkerStatus

from .backfill import Progress
from .enrichment import Clock
from .tower_costs import TowerCost


@dataclass(frozen=True)
class Facts:
    """What a status says beside what its meter has counted."""

    written_at_ms: int
    lag_events: int
    partitions: int
    backfills: Mapping[str, Progress]
    live: Sequence[str]
    rss_bytes: int
    costs: Mapping[str, TowerCost]


class StatusMeter:
    """Counts events and says when a status is due."""

    def __init__(self, worker: str, started_at_ms: int, clock: Clock) -> None:
        self._worker, self._started_at_ms, self._clock = worker, started_at_ms, clock
        self._since = clock()
        self._events = self._dead_letters = self._events_before = 0

    def add(self, events: int, dead_letters: int) -> None:
        """One more batch."""
        self._events += events
        self._dead_letters += dead_letters

    def due(self, interval_seconds: float) -> bool:
        """Whether the last status is older than the interval."""
        return self._clock() - self._since >= interval_seconds

    def status(self, facts: Facts) -> WorkerStatus:
        """The status now; starts the next interval."""
        now = self._clock()
        rate = (self._events - self._events_before) / max(now - self._since, 1e-9)
        self._since, self._events_before = now, self._events
        return WorkerStatus(
            worker=self._worker,
            started_at_ms=self._started_at_ms,
            written_at_ms=facts.written_at_ms,
            events_per_second=rate,
            events=self._events,
            dead_letters=self._dead_letters,
            lag_events=facts.lag_events,
            partitions=facts.partitions,
            backfills={
                version: BackfillStatus(pins=one.pins, done=one.done, failed=one.failed)
                for version, one in facts.backfills.items()
            },
            live=list(facts.live),
            rss_bytes=facts.rss_bytes,
            towers={version: TowerStatus(**asdict(cost)) for version, cost in facts.costs.items()},
        )
