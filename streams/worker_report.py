"""What a worker tells the world: metrics, its status file and the event that counts its embeddings."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from schemas.skew import EmbeddingsCounted

from .backfill import Progress
from .enrichment import Clock, Enriched
from .fetched import Fetched
from .in_flight import InFlight
from .sources import SourceBatch
from .telemetry import EnrichmentTelemetry, tower_label
from .worker_status import StatusMeter, WorkerStatus


class WorkerReport:
    """Counts for one worker."""

    def __init__(
        self,
        worker: str,
        tier: str,
        telemetry: EnrichmentTelemetry,
        clock: Clock,
        wall_ms: Callable[[], int],
    ) -> None:
        self._worker, self._tier, self._telemetry, self._wall_ms = worker, tier, telemetry, wall_ms
        self._meter = StatusMeter(worker, clock)
        self._counted_from_ms = wall_ms()
        self._pins = 0
        self._rows: Counter[str] = Counter()

    def batch(
        self, fetched: Fetched, enriched: Enriched, stages: Mapping[str, float], versions: Sequence[str]
    ) -> None:
        """One batch is stored and on its way."""
        lost = Counter(letter.topic for letter in enriched.letters)
        for batch in fetched.batches:
            topic = batch.source.topic
            repeated = enriched.redelivered.get(topic, 0)
            self._telemetry.events.labels(topic, "redelivered").inc(repeated)
            self._telemetry.events.labels(topic, "dead_lettered").inc(lost[topic])
            self._telemetry.events.labels(topic, "applied").inc(len(batch) - repeated - lost[topic])
        for letter in enriched.letters:
            self._telemetry.dead_letters.labels(letter.topic, letter.reason.value).inc()
        for stage, seconds in stages.items():
            self._telemetry.stage_seconds.labels(stage).observe(seconds)
        events = sum(map(len, fetched.batches))
        self._telemetry.batch_events.observe(events)
        self._meter.add(events, len(enriched.letters))
        self._pins += len(enriched.pin_ids)
        for version, rows in zip(versions, enriched.rows, strict=True):
            self._rows[version] += len(rows)

    def caught_up(self, batches: Sequence[SourceBatch]) -> None:
        """Events of another owner were folded in."""
        for batch in batches:
            self._telemetry.events.labels(batch.source.topic, "caught_up").inc(len(batch))

    def acknowledged(self, flying: InFlight) -> None:
        """The broker has all of it."""
        for ordinal, count in flying.rows.items():
            self._telemetry.rows.labels(tower_label(ordinal)).inc(count)
        self._telemetry.flushed_rows.inc(flying.state_rows)

    def due(self, interval_seconds: float) -> bool:
        """Whether the last status is older than the interval."""
        return self._meter.due(interval_seconds)

    def status(
        self,
        lag: Mapping[str, int],
        partitions: int,
        versions: Sequence[str],
        backfills: Mapping[str, Progress],
    ) -> WorkerStatus:
        """The status now; refreshes the gauges and starts the next interval."""
        for topic, behind in lag.items():
            self._telemetry.lag.labels(topic).set(behind)
        for ordinal, version in enumerate(versions):
            progress = backfills.get(version)
            done = progress is not None and progress.done
            self._telemetry.backfill_complete.labels(tower_label(ordinal)).set(done)
        return self._meter.status(sum(lag.values()), partitions, backfills)

    def counted(self) -> EmbeddingsCounted | None:
        """What was embedded since the last call, or None when no Pin changed."""
        if not self._pins:
            return None
        until_ms = self._wall_ms()
        counted = EmbeddingsCounted(
            worker=self._worker,
            tier=self._tier,
            from_ms=min(self._counted_from_ms, until_ms),
            until_ms=until_ms,
            pins=self._pins,
            rows=dict(self._rows),
        )
        self._counted_from_ms, self._pins = until_ms, 0
        self._rows.clear()
        return counted
