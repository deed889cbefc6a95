"""The enrichment worker: sources → step → state, rows, dead letters → commit.

What a crash can undo, in the order of effects per batch: state and positions are written (one atomic
write), rows and letters are produced, the broker acknowledges them, offsets are committed. A kill
between any two of them repeats the batch: the fold passes over what the state has, the rows come out
again with the same revision, and readers keep one of them.
"""

import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np

from features.store import RecordStore
from schemas.artefacts import write_atomic

from .backfill import Backfill
from .enrichment import Clock, Enriched, PinEmbedder, enrich
from .intake import Fetched, Handover, Intake
from .kafka import KafkaSettings
from .outlet import Outlet
from .positions import Partition, position_meta
from .sources import enrichment_sources
from .state_cache import CachedStore
from .telemetry import EnrichmentTelemetry, tower_label
from .worker_status import StatusMeter

log = logging.getLogger(__name__)

LiveTowers = Callable[[], Sequence[PinEmbedder]]
"""The towers to embed with now, the serving one first. Asked between batches, so it has to be quick."""


@dataclass(frozen=True)
class WorkerSettings:
    """How one worker works. A batch is what came within `poll_seconds`, at most `batch_events`."""

    name: str = "worker-0"
    batch_events: int = 8192
    poll_seconds: float = 0.05
    backfill_chunk_pins: int = 2048
    status_path: Path | None = None
    status_interval_seconds: float = 1.0


@dataclass
class _InFlight:
    """Produced, not yet known to be acknowledged; and what to do when it is."""

    offsets: dict[Partition, int] = field(default_factory=dict)
    meta: dict[str, bytes] = field(default_factory=dict)
    rows: Counter[int] = field(default_factory=Counter)


class EnrichmentWorker:
    """One process of the group. `run` works until told to stop; an exception out of it is a reason to exit.

    Raises Refused for state of another cluster or topics that do not fit, `outlet.DeliveryFailed` when
    the broker does not take a row, RetryableError when no broker answers at the start, KafkaException when
    Kafka cannot be worked with.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: WorkerSettings,
        store: RecordStore,
        live_towers: LiveTowers,
        telemetry: EnrichmentTelemetry,
        clock: Clock,
    ) -> None:
        self._settings, self._live_towers = settings, live_towers
        self._telemetry, self._clock = telemetry, clock
        self._store = CachedStore(store)
        self._in_flight = _InFlight()
        self._backfill = Backfill(self._store, settings.backfill_chunk_pins)
        self._meter = StatusMeter(settings.name, clock)
        self._outlet = Outlet(kafka, settings.name)
        handover = Handover(self._finish, self._abandon)
        self._intake = Intake(kafka, enrichment_sources(), self._store, telemetry, handover)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Work until `stopped()`; then finish the batch, commit and leave the group."""
        try:
            while not stopped():
                self._turn()
            self._finish()
        finally:
            # After a failure too: what was not committed is another member's at once, not in 10 s.
            self._intake.close()

    def _turn(self) -> None:
        fetched = self._intake.read(self._settings.batch_events, self._settings.poll_seconds)
        towers = self._live_towers()
        # Before the batch is stored: over an empty store a backfill is through at once.
        self._fill(towers)
        if fetched is None:
            self._settle()
        else:
            self._step(fetched, towers)
        self._report(towers)

    def _step(self, fetched: Fetched, towers: Sequence[PinEmbedder]) -> None:
        """Enrich a batch while the one before it is on its way; then settle that one and let this one go."""
        enriched = enrich(fetched.batches, self._store, towers, self._clock)
        self._settle()
        start = self._clock()
        meta = position_meta(fetched.offsets)
        self._store.put_many(enriched.pin_ids, enriched.records, enriched.tails, meta)
        stored = self._clock()
        for ordinal, rows in enumerate(enriched.rows):
            self._outlet.produce_rows(rows)
            self._in_flight.rows[ordinal] += len(rows)
        self._outlet.produce_letters(
            [(letter, fetched.headers(letter.topic, letter.row)) for letter in enriched.letters]
        )
        self._in_flight.offsets |= fetched.offsets
        stages = enriched.stage_seconds | {"store": stored - start, "produce": self._clock() - stored}
        self._observe(fetched, enriched, stages)

    def _settle(self, *, wait_for_commit: bool = False) -> None:
        """Wait until the broker has what is in flight, then commit it."""
        flying, self._in_flight = self._in_flight, _InFlight()
        if not flying.offsets and not flying.rows:
            return
        start = self._clock()
        self._outlet.wait()
        self._telemetry.stage_seconds.labels("acknowledge").observe(self._clock() - start)
        for ordinal, count in flying.rows.items():
            self._telemetry.rows.labels(tower_label(ordinal)).inc(count)
        if flying.meta:
            self._store.put_many(np.empty(0, np.int64), np.empty(0, self._store.dtype), [], flying.meta)
        self._intake.commit(flying.offsets, wait=wait_for_commit)

    def _finish(self) -> None:
        """Everything in flight acknowledged and committed: at a stop, and before partitions go."""
        self._settle(wait_for_commit=True)

    def _abandon(self) -> None:
        """The partitions are somebody else's already: their rows may still arrive, nothing is committed."""
        self._in_flight = _InFlight()

    def _fill(self, towers: Sequence[PinEmbedder]) -> None:
        """One chunk of a backfill, when there is one to do."""
        partitions = frozenset(number for _, number in self._intake.assigned)
        chunk = self._backfill.next_chunk(towers, partitions)
        if chunk is None:
            return
        self._outlet.produce_rows(chunk.rows)
        self._in_flight.rows[chunk.ordinal] += len(chunk.rows)
        self._in_flight.meta |= chunk.meta()
        self._telemetry.backfilled.labels(tower_label(chunk.ordinal)).inc(len(chunk.rows))
        if chunk.progress.done:
            log.info("tower %s has a row of every Pin (%d)", chunk.version[:12], chunk.progress.pins)

    def _observe(self, fetched: Fetched, enriched: Enriched, stages: dict[str, float]) -> None:
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

    def _report(self, towers: Sequence[PinEmbedder]) -> None:
        """Refresh lag, backfills and status, once per interval."""
        if not self._meter.due(self._settings.status_interval_seconds):
            return
        lag = self._intake.lag()
        for topic, behind in lag.items():
            self._telemetry.lag.labels(topic).set(behind)
        for ordinal, tower in enumerate(towers):
            progress = self._backfill.progress.get(tower.version)
            done = progress is not None and progress.done
            self._telemetry.backfill_complete.labels(tower_label(ordinal)).set(done)
        status = self._meter.status(sum(lag.values()), len(self._intake.assigned), self._backfill.progress)
        if self._settings.status_path is not None:
            write_atomic(self._settings.status_path, status.model_dump_json().encode())


def run_until_signalled(worker: EnrichmentWorker) -> None:
    """Run in the main thread until SIGTERM or SIGINT, then stop in good order."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        log.info("signal %d: finishing the batch", number)
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        worker.run(stop.is_set)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
