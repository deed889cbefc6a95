"""What the enrichment worker reads from Kafka: source batches, and where each partition starts."""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.store import RecordStore
from schemas.errors import RetryableError
from schemas.topics import PIN_EMBEDDED, PIN_FEATURES, STATE_CHECKPOINTED

from .catch_up import CatchUp
from .fetched import Ascending, Fetched, fetched, is_event
from .handover import Assignment, Handover
from .kafka import KafkaClients, KafkaSettings, consumer_config
from .positions import (
    Offsets,
    Partition,
    Start,
    behind_the_group,
    check_cluster,
    check_not_ahead,
    equal_partitions,
    plan_start,
    position_meta,
    stored_position,
)
from .sources import Source
from .state_rows import pins_of
from .state_topic import Restored, StateTopic
from .telemetry import EnrichmentTelemetry

log = logging.getLogger(__name__)

_BESIDE = (PIN_EMBEDDED.name, PIN_FEATURES.name, STATE_CHECKPOINTED.name)
_ASK_SECONDS = 10.0
_CLOSE_SECONDS = 5.0
"""librdkafka may not come back from leaving a group that is being rebalanced, or whose broker is away."""


class Intake:
    """A consumer of the enrichment sources in one group, reading on where store and group agree."""

    def __init__(
        self,
        settings: KafkaSettings,
        sources: Mapping[str, Source],
        store: RecordStore,
        telemetry: EnrichmentTelemetry,
        handover: Handover,
        clients: KafkaClients,
    ) -> None:
        self._sources, self._store, self._telemetry, self._handover = sources, store, telemetry, handover
        self.assigned: set[Partition] = set()
        self._moved = False
        self._starts: dict[Partition, int] = {}
        self._asked: dict[Partition, int] = {}
        self._not_committed: dict[Partition, int] = {}
        self._catch_up, self._ascending = CatchUp({}), Ascending()
        self._closed = False
        self._state = StateTopic(settings, clients, store, handover.alive)
        overrides = {
            "on_commit": self._on_commit,
            "queued.max.messages.kbytes": 131_072,
            # We always say where to start. A log that then has not got our offset is an error, not a new
            # start: the worker reopens, and what is gone is counted (or refused) by `_start`.
            "auto.offset.reset": "error",
        }
        self._consumer = clients.consumer(consumer_config(settings, settings.enrichment_group, overrides))
        try:
            count = self._check_cluster()
        except Exception:
            self.close()
            raise
        self._sources = {name: replace(one, partitions=count) for name, one in sources.items()}
        self._consumer.subscribe(
            list(sources), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _check_cluster(self) -> int:
        """How many partitions our topics have."""
        try:
            metadata = self._consumer.list_topics(timeout=_ASK_SECONDS)
        except KafkaException as error:
            raise RetryableError(f"Kafka is out of reach: {error}") from error
        count = equal_partitions(metadata, (*self._sources, *_BESIDE))
        if meta := check_cluster(self._store, str(metadata.cluster_id)):
            self._store.put_many(np.empty(0, np.int64), np.empty(0, self._store.dtype), [], meta)
        return count

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._closed:
            # `close` serves a rebalance that was under way; nothing can be asked any more. Without a word
            # of ours the client would take the partitions, and then wait for us to give them back.
            consumer.unassign()
            return
        with _as_retryable():
            self._take(consumer, partitions)

    def _take(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not partitions:
            self._handover.begin(Assignment({}, {}, np.empty(0, np.int64), Restored()))
            return
        restored = self._state.restore(sorted({one.partition for one in partitions}))
        committed = consumer.committed(partitions, timeout=_ASK_SECONDS)
        if failed := [one.error for one in committed if one.error is not None]:
            raise KafkaException(failed[0])  # read as «the group knows nothing», it would all be done again
        marks = self._marks([(one.topic, one.partition) for one in committed])
        for one in committed:
            if one.offset > marks[one.topic, one.partition][1]:
                log.warning("%s[%d]: the group is beyond the end", one.topic, one.partition)
                one.offset = OFFSET_INVALID
        starts = {
            (one.topic, one.partition): self._start(one, marks[one.topic, one.partition], restored)
            for one in committed
        }
        consumer.assign([TopicPartition(*each, start.offset) for each, start in starts.items()])
        consumer.resume([TopicPartition(*each) for each in starts])
        self.assigned = set(starts)
        self._starts = {each: start.offset for each, start in starts.items()}
        self._catch_up, self._ascending = CatchUp(starts), Ascending()
        self._asked = {(one.topic, one.partition): max(one.offset, 0) for one in committed}
        self._telemetry.partitions.set(len(self.assigned))
        self._telemetry.restored_rows.inc(restored.rows)
        self._telemetry.missed_state_rows.inc(restored.missed_rows)
        log.info("assigned %d partitions", len(self.assigned))
        unwritten = pins_of(self._store, {number for (_, number), one in starts.items() if one.unwritten})
        foreign = behind_the_group(self._store, self._asked)
        self._handover.begin(Assignment(self._starts, restored.checkpoints, unwritten, restored, foreign))
        self._keep_positions(starts)  # last: they are what tells of the other workers

    def _start(self, committed: TopicPartition, marks: tuple[int, int], restored: Restored) -> Start:
        """Where to start with one partition; counts what is gone from the topic before it was read."""
        partition = (committed.topic, committed.partition)
        low, high = marks
        checkpoint = restored.checkpoints.get(committed.partition)
        covered = None if checkpoint is None else checkpoint.covers.get(committed.topic, 0)
        start = plan_start(committed.offset, stored_position(self._store, partition), covered, low)
        check_not_ahead(partition, start.known, high)
        if start.missed:
            self._telemetry.missed_events.labels(committed.topic).inc(start.missed)
            log.warning("%s[%d] no longer holds %d events that the state lacks", *partition, start.missed)
        return start

    def _keep_positions(self, starts: Mapping[Partition, Start]) -> None:
        """What was restored counts as folded in; without a write this would be forgotten by a crash."""
        meta = position_meta({each: one.known for each, one in starts.items() if one.known})
        self._store.put_many(np.empty(0, np.int64), np.empty(0, self._store.dtype), [], meta)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        with _as_retryable():
            self._handover.finish()
        self._leave()

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        log.warning("lost %d partitions: the group gave them to another worker", len(partitions))
        self._handover.abandon()
        self._leave()

    def _leave(self) -> None:
        self._moved = True
        self.assigned = set()
        self._asked, self._not_committed, self._catch_up = {}, {}, CatchUp({})
        self._telemetry.partitions.set(0)

    def read(self, count: int, timeout_seconds: float) -> Fetched | None:
        """Up to `count` messages by source, or None when none came in time.

        Raises KafkaException for an error that trying again does not mend.
        """
        self._moved = False
        messages = self._consumer.consume(count, timeout_seconds)
        if any([message.error() for message in messages]):
            messages = [message for message in messages if is_event(message)]
        if self._moved:
            # Fetched before the partitions went to somebody else: theirs to read now.
            messages = [one for one in messages if (one.topic(), one.partition()) in self.assigned]
        messages = self._catch_up.held_back(self._consumer, messages)
        if messages:
            return self._sorted(messages)
        self._catch_up.advance(self._consumer, {})
        if self._not_committed:
            self.commit({}, wait=False)
        return None

    def caught_up(self) -> frozenset[int]:
        """Partition numbers that are ours; none while silent events are still to be folded in."""
        return frozenset(number for _, number in self.assigned if not self._catch_up.bounds)

    def _sorted(self, messages: Sequence[Message]) -> Fetched:
        one = fetched(self._sources, messages, self._catch_up.bounds)
        if not self._moved:  # what was fetched before the partitions moved is read again
            self._ascending.follow(one)
        self._catch_up.advance(self._consumer, one.offsets)
        return one

    def commit(self, offsets: Offsets, *, wait: bool) -> None:
        """Tell the group that everything before these offsets is done with.

        A failure (a rebalance, a coordinator that moves) is no loss: it is tried again with the next
        commit or at the next idle moment, and a restart before that repeats what the fold passes over.
        """
        merged = self._not_committed | {
            # Catching up with what another owner committed must not take the group back.
            each: max(offset, self._asked.get(each, 0))
            for each, offset in offsets.items()
        }
        self._not_committed = {}
        self._asked |= merged
        wanted = [TopicPartition(topic, number, offset) for (topic, number), offset in merged.items()]
        if wanted and wait:
            try:
                self._consumer.commit(offsets=wanted, asynchronous=False)
            except KafkaException as error:
                self._on_commit(error.args[0], wanted)
        elif wanted:
            self._consumer.commit(offsets=wanted, asynchronous=True)

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        if error is not None:
            log.warning("commit: %s", error)
            failed = [(str(one.topic), int(one.partition)) for one in partitions]
            # The highest offset asked for, not the one that failed: a later commit may have succeeded.
            self._not_committed |= {one: self._asked[one] for one in failed if one in self._asked}
            if error.code() == KafkaError.REBALANCE_IN_PROGRESS and self.assigned:
                # Whatever is done from now on until the partitions go, the next owner does again.
                self._consumer.pause([TopicPartition(*each) for each in sorted(self.assigned)])

    def still_ours(self) -> bool:
        """Ask the group's coordinator, by committing once more what is committed: a zombie is refused."""
        if not self._asked:
            return False
        offsets = [TopicPartition(*each, offset) for each, offset in self._asked.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            log.warning("this worker is no longer of the group: %s", error)
            return False
        return True

    def state_ends(self, partitions: Sequence[int]) -> dict[int, int]:
        """Ends of these partitions of the state topic now."""
        marks = self._state.watermarks(PIN_FEATURES.name, partitions)
        return {number: end for number, (_, end) in marks.items()}

    def _marks(self, partitions: Iterable[Partition]) -> dict[Partition, tuple[int, int]]:
        by_topic: dict[str, list[int]] = {}
        for topic, number in partitions:
            by_topic.setdefault(topic, []).append(number)
        return {
            (topic, number): marks
            for topic, numbers in by_topic.items()
            for number, marks in self._state.watermarks(topic, numbers).items()
        }

    def lag(self, *, ask: bool = False) -> dict[str, int]:
        """Messages between position and end of the topic, by topic, as far as the fetcher knows.

        With `ask` the broker is asked for the ends, which tells also when nothing is fetched.
        """
        behind = dict.fromkeys(self._sources, 0)
        told = self._marks(self.assigned) if ask else {}
        for one in self._consumer.position([TopicPartition(*each) for each in sorted(self.assigned)]):
            if ask:
                _, high = told[one.topic, one.partition]
            else:
                _, high = self._consumer.get_watermark_offsets(one, cached=True)
            # A partition of which nothing was read yet has no position, and may be all lag.
            position = one.offset if one.offset >= 0 else self._starts.get((one.topic, one.partition), high)
            behind[one.topic] += max(0, high - position)
        return behind

    def close(self, within_seconds: float = _CLOSE_SECONDS) -> bool:
        """Leave the group; whether that was done in time. If not, the process has to end to be out of it."""
        if self._closed:
            return True
        self._closed = True
        leaving = threading.Thread(target=self._leave_group, name="leave-group", daemon=True)
        leaving.start()
        leaving.join(within_seconds)
        if leaving.is_alive():
            log.warning("the client did not leave the group within %.0f s", within_seconds)
        return not leaving.is_alive()

    def _leave_group(self) -> None:
        self._consumer.close()
        self._state.close()


@contextmanager
def _as_retryable() -> Iterator[None]:
    """For what runs in a callback of the client.

    NOTE: a KafkaException raised by the client itself comes out of a callback as a bare KafkaError, which
    is no exception: nothing can catch it (confluent-kafka 2.16.1).
    """
    try:
        yield
    except KafkaException as error:
        raise RetryableError(f"Kafka, while partitions changed hands: {error}") from error
