"""One seed, one run: workers, broker, disks and faults; then rest, and the checks."""

import functools
import hashlib
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from schemas.codec import encode
from schemas.events import PinChanged
from schemas.topics import (
    DEAD_LETTERED,
    EMBEDDINGS_COUNTED,
    ENRICHMENT_SOURCES,
    PIN_CHANGED,
    PIN_EMBEDDED,
    PIN_FEATURES,
    STATE_CHECKPOINTED,
)
from streams.embedded_batches import EmbeddedDecoder
from streams.embedded_tiers import EmbeddedTiers

from .completeness import check_completeness, check_job, check_named
from .faults import Storm, fault_plan, trim_sources
from .history import CRASHED, History, SnapshotReader, Violation
from .oracle import Oracle
from .scheduler import Scheduler, Stuck
from .sim_broker import Network, SimBroker
from .sim_log import SimMessage, SimTopics
from .sim_workers import SERVING, SESSION_SECONDS, Fleet, Knobs, Slot, in_one_thread
from .workload import Sent, workload

_STORM_SECONDS = 7.0
_DRAIN_SECONDS = 150.0
_TOPICS = (*ENRICHMENT_SOURCES, PIN_EMBEDDED, PIN_FEATURES, STATE_CHECKPOINTED, EMBEDDINGS_COUNTED)


@dataclass(frozen=True)
class Outcome:
    """What became of one seed. `digest` is of the whole trace."""

    seed: int
    digest: str
    violations: tuple[Violation, ...]
    events: int
    lines: tuple[str, ...] = ()


def simulate(seed: int, *, strict: bool = False) -> Outcome:
    """Run one seed; `strict` as in `Scheduler`."""
    return _World(seed, strict).run()


class _World:
    def __init__(self, seed: int, strict: bool) -> None:
        self._seed, self._rng = seed, random.Random(seed)
        self._scheduler = Scheduler(self._rng, strict=strict)
        names = {topic.name: topic.compacted for topic in _TOPICS}
        names |= {topic.dlq: False for topic in DEAD_LETTERED if topic in _TOPICS}
        self._topics = SimTopics(names, self._rng.choice((1, 2, 3)))
        network = Network(0.1, 0.3, 0.3) if self._rng.random() < 0.3 else Network()
        self._broker = SimBroker(self._scheduler, self._topics, network)
        self._knobs = Knobs.draw(self._rng)
        self._fleet = Fleet(self._scheduler, self._broker, self._knobs)
        self._storm = Storm(self._fleet, self._broker)
        embedded = EmbeddedTiers(self._knobs.tiers)
        embeds = functools.cache(lambda pin: sum(embedded.counts(np.array([pin])).values()) == 1)
        self._history = History(self._topics, Oracle(embeds))
        for log in (*self._topics.of(STATE_CHECKPOINTED.name), *self._topics.of(PIN_FEATURES.name)):
            log.on_append = self._on_state
        self._reader = SnapshotReader(self._topics, _decoder(), (SERVING,))

    def run(self) -> Outcome:
        """The whole run; violations are in the outcome."""
        with _quiet(), in_one_thread():
            try:
                self._rage()
                self._come_to_rest()
                self._check_at_rest()
                self._lose_everything()
                self._check_history()
            except Stuck as stuck:
                self._history.complain("stuck", str(stuck))
            finally:
                self._scheduler.end()
        for crash in self._fleet.crashes:
            self._history.complain(CRASHED, crash)
        lines = tuple(self._scheduler.lines)
        events = sum(log.high for topic in ENRICHMENT_SOURCES for log in self._topics.of(topic.name))
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return Outcome(self._seed, digest, tuple(self._history.violations), events, lines)

    def _rage(self) -> None:
        """Events, faults and readers, all at once."""
        time = self._scheduler.time
        for slot in self._fleet.slots:
            start = functools.partial(self._fleet.start, slot)
            time.at(self._rng.choice((0.0, 0.0, self._rng.random() * 5)), start)
        for sent in workload(self._rng, _STORM_SECONDS, self._topics.partitions):
            time.at(sent.at, functools.partial(self._append, sent))
        for fault in fault_plan(self._rng, _STORM_SECONDS, len(self._fleet.slots), SESSION_SECONDS):
            time.at(fault.at, functools.partial(self._storm.strike, fault))
        for _ in range(2):
            time.at(self._rng.random() * _STORM_SECONDS, self._read_snapshot)
        self._scheduler.run(lambda: self._fleet.supervise() and time.now >= _STORM_SECONDS, until=1e9)

    def _append(self, sent: Sent) -> None:
        log = self._topics.log(sent.topic, sent.partition)
        offset = log.append(sent.key, sent.value, sent.headers, self._broker.wall_ms())
        self._scheduler.trace(
            "producer", f"{sent.topic}[{sent.partition}]@{offset} {sent.key!r} {sent.value!r}"
        )

    def _come_to_rest(self) -> None:
        """Everything is mended; then nothing more happens until all is done and flushed."""
        self._storm.over = True
        self._broker.heal()
        self._fleet.heal()
        self._drain()
        # A flush that has begun and one after it; a backfill goes chunk by chunk.
        backfill_seconds = 8.0 if len(self._fleet.versions) > 1 else 0.0
        rest = self._scheduler.time.now + 2 * self._knobs.flush_seconds + 2.0 + backfill_seconds
        self._scheduler.run(
            lambda: self._fleet.supervise() and self._scheduler.time.now >= rest, until=rest + 60
        )
        self._stop_all()

    def _drain(self) -> None:
        limit = self._scheduler.time.now + _DRAIN_SECONDS
        self._scheduler.run(lambda: self._fleet.supervise() and self._all_committed(), until=limit)

    def _stop_all(self) -> None:
        for slot in self._fleet.slots:
            self._fleet.stop(slot)
        limit = self._scheduler.time.now + _DRAIN_SECONDS
        self._scheduler.run(lambda: self._fleet.supervise() and not self._scheduler.processes, until=limit)

    def _all_committed(self) -> bool:
        committed = self._broker.group.committed
        return all(
            committed.get((topic.name, log.partition), 0) >= log.high
            for topic in ENRICHMENT_SOURCES
            for log in self._topics.of(topic.name)
        )

    def _lose_everything(self) -> None:
        """All disks are lost and retention took the sources: one new worker has the state topic alone.

        A last change to every Pin shows what it made of it.
        """
        for topic in (PIN_FEATURES, STATE_CHECKPOINTED):
            self._broker.compact(topic.name, fully=True)
        trim_sources(self._broker)
        self._fleet.slots = [Slot("rescue")]
        self._fleet.start(self._fleet.slots[0])
        for pin, number in sorted(self._history.oracle.partition.items()):
            value = encode(PinChanged(pin_id=pin, occurred_at_ms=1, bid_micros=pin))
            self._append(Sent(0.0, PIN_CHANGED.name, number, b"%d" % pin, value, []))
        self._drain()
        self._stop_all()

    def _check_history(self) -> None:
        self._check_at_rest()
        self._history.check_restored(self._fleet.slots[0].disk.image)
        self._history.check_every_row()
        self._history.check_letters()
        check_completeness(self._history, self._broker.group.committed)
        self._history.check_states()

    def _on_state(self, one: SimMessage) -> None:
        """Between two flushes commits catch up with what the checkpoint of the first one says."""
        check_completeness(self._history, self._broker.group.committed, one.its_partition)

    def _read_snapshot(self) -> None:
        committed = dict(self._broker.group.committed)
        self._history.oracle.catch_up(self._topics)
        self._reader.read_on()
        if self._rng.random() < 0.3:
            self._reader.read_again(self._rng)
        self._history.check_snapshot(self._reader, SERVING, committed)
        check_completeness(self._history, committed)
        self._scheduler.trace("reader", f"{self._reader.table.size(SERVING)} rows")

    def _check_at_rest(self) -> None:
        """As the cutter saw it all along, and once more from what compaction leaves."""
        self._read_snapshot()
        self._history.check_newest(self._reader, SERVING, "a snapshot")
        self._broker.compact(PIN_EMBEDDED.name, fully=True)
        compacted = SnapshotReader(self._topics, _decoder(), tuple(self._fleet.versions))
        compacted.read_on()
        check_named(self._history, self._fleet.versions)
        by_worker = self._knobs.backfill == "worker"
        for version in self._fleet.versions if by_worker else [SERVING]:
            self._history.check_newest(compacted, version, "the compacted topic")
        for version in self._fleet.versions:
            check_job(self._history, version, self._broker.group.committed)


@functools.cache
def _decoder() -> EmbeddedDecoder:
    return EmbeddedDecoder()


@contextmanager
def _quiet() -> Iterator[None]:
    """Workers log what happens to them; here they are meant to fail."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
