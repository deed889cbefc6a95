"""The enrichment worker: events of the sources → Pin states, embedded rows and dead letters.

A batch has these effects, in this order. States and positions go into the store, in one atomic write. Rows
and letters are produced. The broker acknowledges them. Their offsets are committed. A kill between any two
of these repeats the batch: the fold passes over events that the states have already, the rows come out again
with the same revision, and readers keep one of two equal rows.

Between batches the worker flushes changed states to a compacted topic (`state_flush`), from which the next
owner of a partition restores them, and embeds stored Pins with a tower that has become live (`backfill`).
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from features.store import RecordStore
from schemas.topics import EMBEDDINGS_COUNTED

from .backfill import Backfill
from .catch_up import fold_known
from .contact import Contact
from .dead_letters import Headers
from .embedded_tiers import EmbeddedTiers
from .enrichment import Clock, enrich, lacking
from .fetched import Fetched
from .handover import Assignment, Handover
from .in_flight import InFlight
from .intake import Intake
from .kafka import KafkaClients, KafkaSettings
from .outlet import Outlet
from .positions import position_meta
from .sources import DeadLetter, enrichment_sources
from .state_cache import CachedStore
from .state_flush import FlushSettings, FlushSurroundings, StateFlush
from .state_rows import StateRows
from .telemetry import EnrichmentTelemetry
from .tower_claims import TowerClaims
from .tower_output import LiveTowers, PinEmbedder
from .trouble import TROUBLE, PartitionsLost
from .watchdog import Watchdog
from .worker_report import WorkerReport
from .worker_settings import Times, WorkerSettings

log = logging.getLogger(__name__)

_REOPEN_SECONDS = 60.0


class EnrichmentWorker:
    """One process of the consumer group. `run` works until it is told to stop.

    Raises Refused for state of another cluster or topics that do not fit, `outlet.DeliveryFailed` when the
    broker refuses a row for good, and RetryableError when no broker answers at the start. A broker that goes
    away later is waited for. Any exception out of `run` is a reason to end the process.
    """

    def __init__(  # noqa: PLR0917 - the composition root's, each of its own kind
        self,
        kafka: KafkaSettings,
        settings: WorkerSettings,
        store: RecordStore,
        live_towers: LiveTowers,
        telemetry: EnrichmentTelemetry,
        clock: Clock,
        clients: KafkaClients | None = None,
        times: Times | None = None,
    ) -> None:
        self._kafka, self._settings, self._live_towers = kafka, settings, live_towers
        self._telemetry, self._clock = telemetry, clock
        self._clients, self._times = clients or KafkaClients(), times or Times()
        self._store = CachedStore(store)
        self._tiers = EmbeddedTiers(settings.tiers)
        by_worker = settings.backfill == "worker"
        self._backfill = Backfill(self._store, settings.backfill_chunk_pins, self._tiers, by_worker=by_worker)
        self._report = WorkerReport(settings, telemetry, clock, self._times)
        self._watchdog = Watchdog(settings.watchdog_seconds, self._times.awake_seconds)
        self._busy = False
        """Whether a flush or a backfill has more to produce: then nobody waits for a fuller batch."""
        self._serving: list[str] = []
        self.start()

    def run(self, stopped: Callable[[], bool]) -> None:
        """Work until `stopped()`; then finish the batch, flush, commit and leave the group."""
        try:
            with self._watchdog:
                while not stopped():
                    self.turn(stopped)
                try:
                    self._finish()
                except TROUBLE as trouble:
                    log.warning("%s: what is not acknowledged is repeated by the next start", trouble)
        finally:
            # Also after a failure: the partitions go to another member at once, not when the session ends.
            self.stop()

    def start(self) -> None:
        """Connect and join the group."""
        self._in_flight = InFlight()
        self._outlet = Outlet(self._kafka, self._settings.name, self._clients)
        handover = Handover(self._begin, self._hand_over, self._abandon, self._watchdog.beat)
        self._intake = Intake(
            self._kafka, enrichment_sources(), self._store, self._telemetry, handover, self._clients
        )
        ends, embedded = self._intake.state_ends, self._backfill.embedded
        self._flush = StateFlush(
            self._store,
            FlushSettings(self._settings.name, self._settings.flush_seconds, self._settings.flush_chunk_pins),
            FlushSurroundings(ends, embedded, self._clock, self._times.wall_ms),
        )
        self._claims = TowerClaims(self._backfill, self._flush, self._settle, self._produce_states)
        self._contact = Contact(self._clock, self._kafka.session_timeout_ms / 1000)
        self._discarding = False
        """Whether partitions that go are given up as they are, without finishing anything for them."""

    def turn(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """One batch, or one idle moment. After trouble with Kafka the connections are opened anew."""
        try:
            self._turn()
        except TROUBLE as trouble:
            self._reopen(trouble, stopped)

    def stop(self) -> None:
        """Leave the group. What `run` has not finished is left to the next owner of the partitions."""
        self._discarding = True
        self._intake.close()

    def _turn(self) -> None:
        self._contact.turn()
        fetched = self._intake.read(
            self._settings.batch_events, 0.0 if self._busy else self._settings.poll_seconds
        )
        # Asked after the read: partitions that the read brought are embedded with the towers of now.
        towers = self._report.metered(self._live_towers())
        versions = [tower.version for tower in towers]
        self._claims.retract(versions)
        self._follow_serving(versions[:1])
        caught_up = self._intake.caught_up()
        # No backfill beside silent events: they emit no rows, so Pins that it has passed would lack theirs.
        # And it comes before the batch is stored: an empty store's backfill is complete at once, for good.
        filled = self._fill(towers, frozenset() if fetched and fetched.known else caught_up)
        if fetched is None:
            self._settle()
        else:
            self._step(fetched, towers)
        self._flush.follow(versions, all_emitted=bool(caught_up))
        self._busy = self._produce_states(self._flush.next_rows()) or filled
        self._tell(versions, idle=fetched is None)

    def _follow_serving(self, serving: list[str]) -> None:
        """Flush soon when another tower serves: the fewer events the next owner folds silently, the better.

        The serving tower decides which events are dead letters, and the next owner asks the one of its time.
        """
        if serving != self._serving and self._serving:
            self._flush.hasten()
        self._serving = serving

    def _step(self, fetched: Fetched, towers: Sequence[PinEmbedder]) -> None:
        """Enrich a batch while the batch before it is on its way; settle that one, then produce this one."""
        if fetched.known:
            self._catch_up(fetched, towers)
        formats = self._clients.formats
        enriched = enrich(fetched.batches, self._store, towers, self._clock, formats, self._tiers)
        lost = lacking(enriched.left_out)
        self._claims.take_back(lost)
        self._settle()
        start = self._clock()
        if enriched.letters_first:
            self._send_letters(enriched.letters, fetched.headers)
            self._outlet.wait()
        # With the states goes what the backfill now knows to lack: a restart must not forget it. Only from
        # here on: what `_settle` has just stored was the progress as it was before this batch.
        meta = position_meta(fetched.offsets) | self._backfill.meta_of(lost)
        self._store.put_many(enriched.pin_ids, enriched.records, enriched.tails, meta)
        self._flush.note(enriched.pin_ids, fetched.offsets)
        stored = self._clock()
        self._check_fence()
        for ordinal, rows in enumerate(enriched.rows):
            self._outlet.produce_rows(rows)
            self._in_flight.rows[ordinal] += len(rows)
        if not enriched.letters_first:
            self._send_letters(enriched.letters, fetched.headers)
        self._in_flight.offsets |= fetched.offsets
        stages = enriched.stage_seconds | {"store": stored - start, "produce": self._clock() - stored}
        self._report.batch(fetched, enriched, stages, [tower.version for tower in towers])

    def _send_letters(
        self, letters: Sequence[DeadLetter], headers: Callable[[str, int], Headers | None]
    ) -> None:
        self._check_fence()
        self._outlet.produce_letters([(one, headers(one.topic, one.row)) for one in letters])

    def _catch_up(self, fetched: Fetched, towers: Sequence[PinEmbedder]) -> None:
        """Fold the silent events of a batch: the previous owner has emitted and committed them."""
        folded = fold_known(
            fetched.known, self._store, towers, self._clock, self._clients.formats, self._tiers
        )
        if folded.letters:
            # Acknowledged first: a state that holds a later event of its Pin hides that this one is missing.
            self._send_letters(folded.letters, fetched.known_headers)
            self._outlet.wait()
        self._store.put_many(folded.pin_ids, folded.records, folded.tails)
        self._flush.note(folded.pin_ids, {})
        self._report.caught_up(fetched.known, folded.letters)

    def _check_fence(self) -> None:
        """Before anything is produced: a worker that was away (stopped, swapped out) asks its group first.

        Raises PartitionsLost when the worker was replaced. Without this a worker that wakes up after its
        session ended would put rows of old states behind the rows of its successor, and compaction would
        keep those of the old states.
        """
        if not self._contact.confirm(self._intake.still_ours):
            raise PartitionsLost("away for longer than the group waits")

    def _settle(self, *, wait_for_commit: bool = False) -> None:
        """Wait until the broker has acknowledged what is in flight; then store and commit what follows."""
        flying, self._in_flight = self._in_flight, InFlight()
        if flying:
            start = self._clock()
            self._outlet.wait()
            self._telemetry.stage_seconds.labels("acknowledge").observe(self._clock() - start)
            self._watchdog.beat()
        self._report.acknowledged(flying)
        self._backfill.acknowledged()
        if meta := flying.meta | self._flush.acknowledged():
            self._store.put_many(np.empty(0, np.int64), np.empty(0, self._store.dtype), [], meta)
        if flying.offsets:
            self._intake.commit(flying.offsets, wait=wait_for_commit)
        self._produce_states(self._flush.next_checkpoints(), checkpoints=True)

    def _produce_states(self, rows: StateRows | None, *, checkpoints: bool = False) -> bool:
        if rows is None:
            return False
        self._check_fence()
        self._outlet.produce_rows(rows)
        self._in_flight.add_states(len(rows), checkpoints=checkpoints)
        return True

    def _begin(self, assignment: Assignment) -> None:
        """Partitions were assigned."""
        self._backfill.begin(assignment.checkpoints, assignment.foreign)
        self._flush.begin(assignment.starts, assignment.checkpoints, assignment.unwritten)
        self._outlet.produce_letters([(letter, None) for letter in assignment.restored.letters])
        self._in_flight.others += len(assignment.restored.letters)
        self._contact.unknown()
        self._watchdog.beat()

    def _finish(self) -> None:
        """Settle, commit and flush, before a stop or before partitions go to another worker."""
        if self._discarding:
            return
        self._settle(wait_for_commit=True)
        deadline = self._clock() + self._settings.drain_seconds
        # Two flushes: one that may be under way, and one for what has changed since it began.
        for _ in range(2):
            while self._clock() < deadline and (rows := self._flush.next_rows(at_once=True)) is not None:
                self._produce_states(rows)
            self._settle()
            self._settle()

    def _hand_over(self) -> None:
        """The partitions go to another worker, which reads again what there was no time to flush."""
        self._finish()
        self._flush.drop()

    def _abandon(self) -> None:
        """The partitions are another worker's already: produce and commit nothing of them."""
        self._in_flight = InFlight()
        self._flush.drop()
        # What the producer still holds may be older than what the new owner has sent by now.
        self._outlet.drop()
        self._outlet = Outlet(self._kafka, self._settings.name, self._clients)

    def _reopen(self, trouble: Exception, stopped: Callable[[], bool]) -> None:
        """Let go of everything that is not acknowledged, and begin again from what is committed."""
        self._discarding = True
        self._telemetry.reopened.inc()
        self._flush.drop()
        self._outlet.drop()
        if not self._intake.close(_REOPEN_SECONDS):
            raise RuntimeError("a client that cannot leave its group: only the end of the process helps")
        while not stopped():
            log.warning("%s: connecting anew", trouble)
            self._times.pause(self._settings.retry_seconds)
            self._watchdog.beat()
            try:
                self._live_towers()  # raises without a tower: a worker that has none takes no partitions
                self.start()
                return
            except TROUBLE as again:
                trouble = again

    def _fill(self, towers: Sequence[PinEmbedder], partitions: frozenset[int]) -> bool:
        """Produce one chunk of a backfill of these partitions; whether there was one."""
        if (chunk := self._backfill.next_chunk(towers, partitions)) is None:
            return False
        self._check_fence()
        self._outlet.produce_rows(chunk.rows)
        self._in_flight.rows[chunk.ordinal] += len(chunk.rows)
        self._in_flight.meta |= chunk.meta()
        self._report.backfilled(chunk.ordinal, chunk.rows, chunk.left_out)
        if chunk.progress.done:
            self._flush.hasten()
            log.info("tower %s has a row of %s", chunk.version[:12], chunk.progress.told())
        return True

    def _tell(self, versions: Sequence[str], *, idle: bool) -> None:
        """Once per interval: refresh lag, backfills and status; feed the watchdog where there is no work."""
        if not self._report.due():
            return
        lag = self._intake.lag(ask=idle)
        if not sum(lag.values()):
            self._watchdog.beat()
        self._report.tell(lag, len(self._intake.assigned), versions, self._backfill.progress)
        for counted in self._report.counted():
            self._outlet.produce_message(EMBEDDINGS_COUNTED.name, self._settings.name, counted)
            self._in_flight.others += 1
