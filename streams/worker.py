"""The enrichment worker: sources → step → state, rows, dead letters → commit.

What a crash can undo, in the order of effects per batch: state and positions are written (one atomic
write), rows and letters are produced, the broker acknowledges them, offsets are committed. A kill
between any two of them repeats the batch: the fold passes over what the state has, the rows come out
again with the same revision, and readers keep one of them. Beside that, changed states are flushed to
the compacted topic (`state_flush`), from which whoever takes a partition over restores them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from features.store import RecordStore
from schemas.topics import EMBEDDINGS_COUNTED

from .backfill import Backfill
from .catch_up import fold_known
from .contact import Contact
from .embedded_tiers import EmbeddedTiers
from .enrichment import Clock, Enriched, enrich, lacking
from .fetched import Fetched
from .handover import Assignment, Handover
from .in_flight import InFlight
from .intake import Intake
from .kafka import KafkaClients, KafkaSettings
from .outlet import Outlet
from .positions import position_meta
from .sources import enrichment_sources
from .state_cache import CachedStore
from .state_flush import FlushEnvirons, FlushSettings, StateFlush
from .state_rows import StateRows
from .telemetry import EnrichmentTelemetry
from .tower_output import LiveTowers, PinEmbedder
from .trouble import TROUBLE, PartitionsLost
from .watchdog import Watchdog
from .worker_report import WorkerReport
from .worker_settings import Times, WorkerSettings

log = logging.getLogger(__name__)

_REOPEN_SECONDS = 60.0


class EnrichmentWorker:
    """One process of the group. `run` works until told to stop; an exception out of it is a reason to exit.

    Raises Refused for state of another cluster or topics that do not fit, `outlet.DeliveryFailed` when
    the broker refuses a row for good, and RetryableError when none answers at the start; later it waits
    for one.
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
        self._in_flight = InFlight()
        self._tiers = EmbeddedTiers(settings.tiers)
        by_worker = settings.backfill == "worker"
        self._backfill = Backfill(self._store, settings.backfill_chunk_pins, self._tiers, by_worker=by_worker)
        self._report = WorkerReport(settings, telemetry, clock, self._times)
        self._watchdog = Watchdog(settings.watchdog_seconds, self._times.awake_seconds)
        self._discarding = self._busy = False
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
            # After a failure too: what was not committed is another member's at once, not in 10 s.
            self.stop()

    def start(self) -> None:
        """Connect and join the group."""
        self._in_flight = InFlight()
        self._outlet = Outlet(self._kafka, self._settings.name, self._clients)
        handover = Handover(self._begin, self._hand_over, self._abandon, self._watchdog.beat)
        self._intake = Intake(
            self._kafka, enrichment_sources(), self._store, self._telemetry, handover, self._clients
        )
        self._flush = StateFlush(
            self._store,
            FlushSettings(self._settings.name, self._settings.flush_seconds, self._settings.flush_chunk_pins),
            FlushEnvirons(self._intake.state_ends, self._backfill.embedded, self._clock, self._times.wall_ms),
        )
        self._contact = Contact(self._clock, self._kafka.session_timeout_ms / 1000)
        self._discarding = False

    def turn(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """One batch, or one idle moment; trouble with Kafka closes the connections and opens them again."""
        try:
            self._turn()
        except TROUBLE as trouble:
            self._reopen(trouble, stopped)

    def stop(self) -> None:
        """Leave the group. What `run` has not finished is left to the next owner."""
        self._discarding = True
        self._intake.close()

    def _turn(self) -> None:
        self._contact.turn()
        # With a flush or a backfill to go on with, nobody waits for a fuller batch.
        poll_seconds = 0.0 if self._busy else self._settings.poll_seconds
        fetched = self._intake.read(self._settings.batch_events, poll_seconds)
        # Asked after the read: whoever has just taken partitions over knows the towers of now.
        towers = self._report.metered(self._live_towers())
        versions = [tower.version for tower in towers]
        self._retract(versions)
        self._follow_serving(versions[:1])
        caught_up = self._intake.caught_up()
        # Before the batch is stored: over an empty store a backfill is through at once.
        filled = self._fill(towers, frozenset() if fetched and fetched.known else caught_up)
        if fetched is None:
            self._settle()
        else:
            self._step(fetched, towers)
        self._flush.follow(versions, all_emitted=bool(caught_up))
        self._busy = self._produce_states(self._flush.next_rows()) or filled
        self._tell(versions, idle=fetched is None)

    def _retract(self, versions: Sequence[str]) -> None:
        """No checkpoint, ours or an earlier owner's, may name a tower that the next rows lack."""
        if self._backfill.drops(versions) or self._flush.names_others(versions):
            self._correct(lambda: self._flush.retract(versions))

    def _follow_serving(self, serving: list[str]) -> None:
        """Whoever folds our events silently asks the serving tower of its own time what we turned down."""
        if serving != self._serving and self._serving:
            self._flush.hasten()
        self._serving = serving

    def _step(self, fetched: Fetched, towers: Sequence[PinEmbedder]) -> None:
        """Enrich a batch while the one before it is on its way; then settle that one and let this one go."""
        if fetched.known:
            self._catch_up(fetched, towers)
        formats = self._clients.formats
        enriched = enrich(fetched.batches, self._store, towers, self._clock, formats, self._tiers)
        self._take_back(lacking(enriched.left_out))
        self._settle()
        start = self._clock()
        if enriched.letters_first:
            self._send_letters(fetched, enriched)
            self._outlet.wait()
        self._store.put_many(
            enriched.pin_ids, enriched.records, enriched.tails, position_meta(fetched.offsets)
        )
        self._flush.note(enriched.pin_ids, fetched.offsets)
        stored = self._clock()
        self._check_fence()
        for ordinal, rows in enumerate(enriched.rows):
            self._outlet.produce_rows(rows)
            self._in_flight.rows[ordinal] += len(rows)
        if not enriched.letters_first:
            self._send_letters(fetched, enriched)
        self._in_flight.offsets |= fetched.offsets
        stages = enriched.stage_seconds | {"store": stored - start, "produce": self._clock() - stored}
        self._report.batch(fetched, enriched, stages, [tower.version for tower in towers])

    def _take_back(self, lacking: Mapping[str, frozenset[int]]) -> None:
        """No checkpoint may call a tower complete where a row will be lacking, also not after a kill."""
        for version, partitions in lacking.items():
            self._backfill.lost(version, partitions)
        if self._flush.calls_complete(lacking):
            self._correct(lambda: self._flush.lacks(lacking))

    def _correct(self, checkpoints: Callable[[], StateRows | None]) -> None:
        """Settle twice (the first may let out a checkpoint that still names the tower), then send these."""
        self._settle()
        self._settle()
        self._produce_states(checkpoints())
        self._settle()

    def _send_letters(self, fetched: Fetched, enriched: Enriched) -> None:
        self._check_fence()
        self._outlet.produce_letters(
            [(letter, fetched.headers(letter.topic, letter.row)) for letter in enriched.letters]
        )

    def _catch_up(self, fetched: Fetched, towers: Sequence[PinEmbedder]) -> None:
        """Fold what another owner has emitted and committed."""
        pins = fold_known(fetched.known, self._store, towers, self._clock, self._clients.formats, self._tiers)
        self._flush.note(pins, {})
        self._report.caught_up(fetched.known)

    def _check_fence(self) -> None:
        """Nothing is produced by a worker that was away (stopped, swapped out) until it asked the group.

        Raises PartitionsLost. Without it a worker that wakes up after its session ended would put rows
        of an older state behind the rows of the one that took over, and compaction would keep those.
        """
        while self._contact.away():
            asked_at = self._clock()
            if not self._intake.still_ours():
                raise PartitionsLost("away for longer than the group waits")
            self._contact.asked(asked_at)

    def _settle(self, *, wait_for_commit: bool = False) -> None:
        """Wait until the broker has what is in flight, then commit it."""
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
        """Partitions came."""
        self._backfill.begin(assignment.checkpoints, assignment.foreign)
        self._flush.begin(assignment.starts, assignment.checkpoints, assignment.unwritten)
        self._outlet.produce_letters([(letter, None) for letter in assignment.restored.letters])
        self._in_flight.others += len(assignment.restored.letters)
        self._contact.unknown()
        self._watchdog.beat()

    def _finish(self) -> None:
        """All in flight acknowledged and committed, states flushed: at a stop, before partitions go."""
        if self._discarding:
            return
        self._settle(wait_for_commit=True)
        deadline = self._clock() + self._settings.drain_seconds
        # A flush that is under way, and one for what has changed since it began.
        for _ in range(2):
            while self._clock() < deadline and (rows := self._flush.next_rows(at_once=True)) is not None:
                self._produce_states(rows)
            self._settle()
            self._settle()

    def _hand_over(self) -> None:
        """The partitions go to somebody else, who reads again what there was no time to flush."""
        self._finish()
        self._flush.drop()

    def _abandon(self) -> None:
        """The partitions are somebody else's already: nothing of them is produced or committed."""
        self._in_flight = InFlight()
        self._flush.drop()
        # What is still queued may be older than what the new owner has sent by now.
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
                self._live_towers()  # without any nothing is taken in, so no partitions are taken either
                self.start()
                return
            except TROUBLE as again:
                trouble = again

    def _fill(self, towers: Sequence[PinEmbedder], partitions: frozenset[int]) -> bool:
        """One chunk of a backfill. Of no partition while silent events are folded: they emit nothing."""
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
        """Refresh lag, backfills and status, once per interval; feed the watchdog when there is no work."""
        if not self._report.due():
            return
        lag = self._intake.lag(ask=idle)
        if not sum(lag.values()):
            self._watchdog.beat()
        self._report.tell(lag, len(self._intake.assigned), versions, self._backfill.progress)
        for counted in self._report.counted():
            self._outlet.produce_message(EMBEDDINGS_COUNTED.name, self._settings.name, counted)
            self._in_flight.others += 1
