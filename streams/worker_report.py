"""What a worker tells the world: metrics, its status file and the events that count its embeddings."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas.artefacts import write_atomic
from schemas.codec import encode
from schemas.skew import EmbeddingsCounted
from schemas.statuses import WorkerStatus

from .backfill import Progress
from .embedded_rows import EmbeddedRows
from .embedded_tiers import EmbeddedTiers
from .enrichment import Clock, Enriched, LeftOut
from .fetched import Fetched
from .in_flight import InFlight
from .sources import DeadLetter, SourceBatch
from .telemetry import EnrichmentTelemetry, tower_label
from .tower_costs import TowerCosts
from .tower_output import PinEmbedder
from .worker_settings import Times, WorkerSettings
from .worker_status import Facts, StatusMeter

log = logging.getLogger(__name__)


@dataclass
class _Tally:
    """Pins embedded in one tier, and their rows by tower version."""

    pins: int = 0
    rows: Counter[str] = field(default_factory=Counter)


class WorkerReport:
    """Counts for one worker."""

    def __init__(
        self, settings: WorkerSettings, telemetry: EnrichmentTelemetry, clock: Clock, times: Times
    ) -> None:
        self._settings, self._telemetry, self._times = settings, telemetry, times
        self._tiers = EmbeddedTiers(settings.tiers)
        self._costs = TowerCosts(telemetry, times.cpu_seconds)
        self._counted_from_ms = times.wall_ms()
        self._meter = StatusMeter(settings.name, self._counted_from_ms, clock)
        self._tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
        self._left_out = Counter[str]()
        self._left_out_pin: dict[str, int] = {}

    def metered(self, towers: Sequence[PinEmbedder]) -> list[PinEmbedder]:
        """The same towers; what their forwards cost is counted."""
        return self._costs.metered(towers)

    def batch(
        self, fetched: Fetched, enriched: Enriched, stages: Mapping[str, float], versions: Sequence[str]
    ) -> None:
        """One batch is stored and on its way."""
        lost = self._dead_lettered(enriched.letters)
        for batch in fetched.batches:
            topic = batch.source.topic
            repeated = enriched.redelivered.get(topic, 0)
            self._telemetry.events.labels(topic, "redelivered").inc(repeated)
            self._telemetry.events.labels(topic, "dead_lettered").inc(lost[topic])
            self._telemetry.events.labels(topic, "applied").inc(len(batch) - repeated - lost[topic])
        for stage, seconds in stages.items():
            self._telemetry.stage_seconds.labels(stage).observe(seconds)
        events = sum(map(len, fetched.batches))
        self._telemetry.batch_events.observe(events)
        self._meter.add(events, len(enriched.letters))
        self._tally(enriched, versions)
        for left in enriched.left_out:
            self._leave_out(left)

    def _tally(self, enriched: Enriched, versions: Sequence[str]) -> None:
        """A Pin has one row of each tower, but for those that a tower has left out."""
        for place, rows in enumerate(enriched.rows):
            self._costs.produced(place, rows)
        for tier, pins in self._tiers.counts(enriched.embedded_ids).items():
            tally = self._tallies[tier]
            tally.pins += pins
            tally.rows.update(dict.fromkeys(versions, pins))
        for left in enriched.left_out:
            for tier, pins in self._tiers.counts(left.pin_ids).items():
                self._tallies[tier].rows[left.version] -= pins

    def _leave_out(self, left: LeftOut) -> None:
        """Counted now, said with the next status: a tower that fails on every Pin is one line an interval."""
        self._telemetry.left_out.labels(tower_label(left.place)).inc(len(left.pin_ids))
        self._left_out[left.version] += len(left.pin_ids)
        self._left_out_pin[left.version] = int(left.pin_ids[0])

    def _say_left_out(self) -> None:
        for version, count in self._left_out.items():
            log.warning(
                "tower %s could not embed %d Pins, such as %d: they get no row of it",
                version[:12],
                count,
                self._left_out_pin[version],
            )
        self._left_out.clear()

    def backfilled(self, place: int, rows: EmbeddedRows, left_out: LeftOut | None = None) -> None:
        """A chunk of a backfill is on its way."""
        if left_out is not None:
            self._leave_out(left_out)
        self._costs.produced(place, rows, backfill=True)
        self._telemetry.backfilled.labels(tower_label(place)).inc(len(rows))

    def caught_up(self, batches: Sequence[SourceBatch], letters: Sequence[DeadLetter]) -> None:
        """Events of the previous owner were folded in, but for those that these letters are about."""
        lost = self._dead_lettered(letters)
        for batch in batches:
            topic = batch.source.topic
            self._telemetry.events.labels(topic, "dead_lettered").inc(lost[topic])
            self._telemetry.events.labels(topic, "caught_up").inc(len(batch) - lost[topic])

    def _dead_lettered(self, letters: Sequence[DeadLetter]) -> Counter[str]:
        """Count letters by reason; gives how many each topic has."""
        for letter in letters:
            self._telemetry.dead_letters.labels(letter.topic, letter.reason.value).inc()
        return Counter(letter.topic for letter in letters)

    def acknowledged(self, flying: InFlight) -> None:
        """The broker has all of it."""
        for ordinal, count in flying.rows.items():
            self._telemetry.rows.labels(tower_label(ordinal)).inc(count)
        self._telemetry.flushed_rows.inc(flying.state_rows)

    def due(self) -> bool:
        """Whether the last status is older than the interval."""
        return self._meter.due(self._settings.status_interval_seconds)

    def tell(
        self,
        lag: Mapping[str, int],
        partitions: int,
        versions: Sequence[str],
        backfills: Mapping[str, Progress],
    ) -> WorkerStatus:
        """Refresh the gauges, write the status file and start the next interval."""
        for topic, behind in lag.items():
            self._telemetry.lag.labels(topic).set(behind)
        for ordinal, version in enumerate(versions):
            progress = backfills.get(version)
            done = progress is not None and progress.done and not progress.lacking
            self._telemetry.backfill_complete.labels(tower_label(ordinal)).set(done)
        self._say_left_out()
        resident = self._times.resident_bytes()
        self._telemetry.rss_bytes.set(resident)
        written_at_ms, costs = self._times.wall_ms(), self._costs.by_version
        status = self._meter.status(
            Facts(written_at_ms, sum(lag.values()), partitions, backfills, versions, resident, costs)
        )
        if self._settings.status_path is not None:
            write_atomic(self._settings.status_path, status.model_dump_json().encode())
        return status

    def counted(self) -> list[bytes]:
        """EmbeddingsCounted of each tier in which a Pin was embedded since the last call, encoded."""
        until_ms = self._times.wall_ms()
        counted = [
            EmbeddingsCounted(
                worker=self._settings.name,
                tier=tier,
                from_ms=min(self._counted_from_ms, until_ms),
                until_ms=until_ms,
                pins=tally.pins,
                rows=dict(tally.rows),
            )
            for tier, tally in self._tallies.items()
            if tally.pins
        ]
        if counted:
            self._counted_from_ms = until_ms
            self._tallies.clear()
        return [encode(one) for one in counted]
