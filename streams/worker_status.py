"""What one worker says about itself in a small JSON file, for consoles."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from .backfill import Progress
from .enrichment import Clock


class BackfillStatus(BaseModel):
    """How far the backfill of one tower version is."""

    model_config = ConfigDict(frozen=True)

    pins: int
    done: bool


class WorkerStatus(BaseModel):
    """One worker, now: rate over the last interval, totals since its start."""

    model_config = ConfigDict(frozen=True)

    worker: str
    events_per_second: float
    events: int
    dead_letters: int
    lag_events: int
    partitions: int
    backfills: dict[str, BackfillStatus]


class StatusMeter:
    """Counts events and says when a status is due."""

    def __init__(self, worker: str, clock: Clock) -> None:
        self._worker, self._clock = worker, clock
        self._since = clock()
        self._events = self._dead_letters = self._events_before = 0

    def add(self, events: int, dead_letters: int) -> None:
        """One more batch."""
        self._events += events
        self._dead_letters += dead_letters

    def due(self, interval_seconds: float) -> bool:
        """Whether the last status is older than the interval."""
        return self._clock() - self._since >= interval_seconds

    def status(self, lag_events: int, partitions: int, backfills: Mapping[str, Progress]) -> WorkerStatus:
        """The status now; starts the next interval."""
        now = self._clock()
        rate = (self._events - self._events_before) / max(now - self._since, 1e-9)
        self._since, self._events_before = now, self._events
        return WorkerStatus(
            worker=self._worker,
            events_per_second=rate,
            events=self._events,
            dead_letters=self._dead_letters,
            lag_events=lag_events,
            partitions=partitions,
            backfills={
                version: BackfillStatus(pins=one.pins, done=one.done) for version, one in backfills.items()
            },
        )
