"""Restoring state: what a worker reads from the compacted topics when partitions become its own."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, Message, TopicPartition

from features.store import RecordStore
from schemas.codec import decode
from schemas.errors import DeadLetterReason, InvalidMessage, RetryableError
from schemas.states import StateCheckpointed
from schemas.topics import PIN_FEATURES, STATE_CHECKPOINTED

from .kafka import KafkaClients, KafkaSettings, consumer_config
from .positions import position_meta, stored_position
from .sources import DeadLetter
from .state_rows import StateRowDecoder, merge_states

log = logging.getLogger(__name__)

_ASK_SECONDS = 10.0
_SILENCE_SECONDS = 30.0
_READ_SECONDS = 0.1
"""A read of a full chunk takes as long as this when there is less to read."""
_CHUNK = 4096
_TAIL = 64
"""Checkpoints read from the end of a partition; the newest ones say most, and one is enough."""


@dataclass
class Restored:
    """What came back. A partition without a checkpoint has none in `checkpoints`."""

    checkpoints: dict[int, StateCheckpointed] = field(default_factory=dict)
    rows: int = 0
    missed_rows: int = 0
    """State rows that the topic no longer has: an embedded broker evicts, a real one only when told to."""
    letters: list[DeadLetter] = field(default_factory=list)


class StateTopic:
    """Reads pin.features.v1 and state.checkpointed.v1 into a store, through a consumer of its own.

    It also asks for the ends of partitions: on the worker's consumer such a question would wait behind
    a fetch (measured: 100 ms each, against 0.1 ms here).
    """

    def __init__(
        self, settings: KafkaSettings, clients: KafkaClients, store: RecordStore, alive: Callable[[], None]
    ) -> None:
        self._store, self._alive = store, alive
        self._decoder = StateRowDecoder()
        group = f"{settings.enrichment_group}-restore"
        self._consumer = clients.consumer(consumer_config(settings, group))

    def restore(self, partitions: Sequence[int]) -> Restored:
        """Bring the store up to the end of the state topic for these partitions.

        Checkpoints are read before rows, so that every row which a checkpoint speaks of is among those
        read after it. Raises RetryableError when Kafka stops answering.
        """
        restored = Restored()
        if not partitions:
            return restored
        try:
            restored.checkpoints = self._checkpoints(partitions)
            self._rows(partitions, restored)
            self._consumer.unassign()
        except KafkaException as error:
            raise RetryableError(f"restoring state: {error}") from error
        if restored.rows:
            log.info("restored %d state rows of %d partitions", restored.rows, len(partitions))
        return restored

    def watermarks(self, topic: str, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
        """First offset and end of each partition now, from the broker, in two requests.

        NOTE: `get_watermark_offsets` asks for one partition, and waits behind a fetch that is under way.
        """
        if not partitions:
            return {}
        first, after = (
            self._consumer.offsets_for_times(
                [TopicPartition(topic, number, which) for number in partitions], timeout=_ASK_SECONDS
            )
            for which in (OFFSET_BEGINNING, OFFSET_END)
        )
        if failed := [one.error for one in (*first, *after) if one.error is not None]:
            # An answer without an offset would pass for an empty partition, whose state is not restored.
            raise KafkaException(failed[0])
        ends = {one.partition: one.offset for one in after}
        return {one.partition: (int(one.offset), int(ends[one.partition])) for one in first}

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _checkpoints(self, partitions: Sequence[int]) -> dict[int, StateCheckpointed]:
        starts, ends = {}, {}
        for number, (low, high) in self.watermarks(STATE_CHECKPOINTED.name, partitions).items():
            starts[number], ends[number] = max(low, high - _TAIL), high
        best: dict[int, StateCheckpointed] = {}
        for messages in _read(self._consumer, STATE_CHECKPOINTED.name, starts, ends):
            for message in messages:
                one = _checkpoint(message)
                if one is None:
                    continue
                known = best.get(one.partition)
                if known is None or one.state_offset >= known.state_offset:
                    best[one.partition] = one
        return best

    def _rows(self, partitions: Sequence[int], restored: Restored) -> None:
        starts, ends = {}, {}
        for number, (low, high) in self.watermarks(PIN_FEATURES.name, partitions).items():
            stored = stored_position(self._store, (PIN_FEATURES.name, number)) or 0
            restored.missed_rows += max(0, low - stored)
            # A store that is ahead of the topic read another one: that is for the sources' check to refuse.
            starts[number], ends[number] = max(low, min(stored, high)), high
            said = restored.checkpoints.get(number)
            if said is not None and said.state_offset > high:
                # It speaks of rows of a topic that was made anew: without them its offsets cover nothing.
                log.warning("%s[%d] lacks rows that a checkpoint speaks of", PIN_FEATURES.name, number)
                del restored.checkpoints[number]
        for messages in _read(self._consumer, PIN_FEATURES.name, starts, ends):
            self._merge(messages, restored)

    def _merge(self, messages: list[Message], restored: Restored) -> None:
        numbers = np.fromiter([one.partition() for one in messages], np.int64, len(messages))
        read = self._decoder.decode([one.value() for one in messages], numbers)
        merged = merge_states(self._store, read)
        ends = {(PIN_FEATURES.name, one.partition() or 0): (one.offset() or 0) + 1 for one in messages}
        self._store.put_many(merged.pin_ids, merged.records, merged.tails, position_meta(ends))
        restored.rows += len(read.records)
        self._alive()
        for place, error in read.unreadable.items():
            restored.letters.append(_letter(messages[place], place, error))


def _read(
    consumer: Consumer, topic: str, starts: dict[int, int], ends: dict[int, int]
) -> Iterator[list[Message]]:
    """Every message of the ranges, in chunks; those of one partition in order."""
    missing = {number for number in starts if starts[number] < ends[number]}
    consumer.assign([TopicPartition(topic, number, starts[number]) for number in sorted(missing)])
    silent = 0.0
    while missing:
        fetched = consumer.consume(_CHUNK, _READ_SECONDS)
        messages = [one for one in fetched if one.error() is None]
        silent = 0.0 if messages else silent + _READ_SECONDS
        if silent >= _SILENCE_SECONDS:
            raise RetryableError(
                f"{topic}: nothing came for {_SILENCE_SECONDS:.0f} s, {sorted(missing)} lack"
            )
        inside = [one for one in messages if (one.offset() or 0) < ends[one.partition() or 0]]
        if inside:
            yield inside
        # NOTE: compaction leaves gaps but never takes a partition's last record.
        missing -= {n for one in messages if (one.offset() or 0) + 1 >= ends[n := one.partition() or 0]}


def _checkpoint(message: Message) -> StateCheckpointed | None:
    where = f"{message.topic()}[{message.partition()}]@{message.offset()}"
    return read_checkpoint(message.value(), where)


def read_checkpoint(value: bytes | None, where: str) -> StateCheckpointed | None:
    """What a row of state.checkpointed.v1 says of Pin states; None, and a warning, for one that is none."""
    try:
        one = decode(StateCheckpointed, value)
    except InvalidMessage as error:
        log.warning("%s: %s", where, error)
        return None
    return one if one.state_topic == PIN_FEATURES.name else None


def _letter(message: Message, place: int, error: InvalidMessage) -> DeadLetter:
    return DeadLetter(
        topic=PIN_FEATURES.name,
        row=place,
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        ingested_at_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        reason=DeadLetterReason(error.reason),
        message=error.detail,
    )
