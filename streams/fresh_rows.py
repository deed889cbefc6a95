"""What servers read to be newer than their release: pin.embedded.v1 and, for batch tiers, pin.features.v1.

Partitions are assigned by hand and nothing is committed: any number of servers read beside each other.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.pin_state import STATUS_CODES, Records
from index.delta_fold import NO_VERSION, FreshRows
from index.embedding_table import EmbeddedBatch
from index.row_files import ATTRIBUTES
from schemas.errors import Refused, RetryableError
from schemas.manifests import Offsets
from schemas.topics import PIN_EMBEDDED

from . import embedded_batches
from .embedded_batches import EmbeddedDecoder
from .kafka import KafkaSettings, consumer_config
from .state_rows import StateRowDecoder
from .topic_reader import TopicReader

log = logging.getLogger(__name__)

_GROUP = "skewless-server"
"""Consumers have to name one; as partitions are assigned by hand, nobody joins it."""
_READ_COUNT = 4_000
_CRITICAL = 2
_NOT_STATE = {"input_mask", "status"}


class KafkaFreshRows:
    """Reads on from given offsets, through any silence of the broker. Its owner closes it."""

    def __init__(self, settings: KafkaSettings) -> None:
        quiet = {"log_level": _CRITICAL, "enable.partition.eof": True, "queued.max.messages.kbytes": 16_384}
        self._consumer = Consumer(consumer_config(settings, _GROUP, quiet), logger=log)
        self._ends = TopicReader(settings)
        self._embedded, self._states = EmbeddedDecoder(), StateRowDecoder()

    def spans(self, topics: Sequence[str]) -> dict[str, dict[int, tuple[int, int]]]:
        """First offset and end of every partition, as of now. Raises RetryableError when nobody answers."""
        try:
            return {topic: self._ends.spans(topic) for topic in topics}
        except Refused as error:
            raise RetryableError(f"{error.code}: {error.expected}, {error.came}") from error

    def read_from(self, positions: Offsets) -> None:
        """Read on from these offsets, whatever was read before."""
        assigned = [
            TopicPartition(topic, partition, offset)
            for topic, offsets in positions.items()
            for partition, offset in offsets.items()
        ]
        self._consumer.assign(assigned)

    def read(self, timeout_seconds: float, dimensions: Mapping[str, int]) -> FreshRows:
        """What has come, at most some thousand messages; nothing when none came in time.

        `dimensions`: tower version -> length of its vectors, for the versions whose embeddings are wanted.
        Raises RetryableError for an error of the broker's that does not pass by itself.
        """
        try:
            fetched = self._consumer.consume(_READ_COUNT, timeout_seconds)
        except KafkaException as error:
            raise RetryableError(str(error)) from error
        upto: Offsets = defaultdict(dict)
        by_topic: dict[str, list[Message]] = defaultdict(list)
        for message in fetched:
            if _is_of_use(message.error()):
                topic, offset = str(message.topic()), int(message.offset() or 0)
                # The note that a partition has ended carries the end itself.
                upto[topic][int(message.partition() or 0)] = offset + (message.error() is None)
                if message.error() is None:
                    by_topic[topic].append(message)
        batches, unreadable = [], 0
        for topic, messages in by_topic.items():
            decode = self._decode_embedded if topic == PIN_EMBEDDED.name else self._decode_states
            batch, bad = decode(messages, dimensions)
            batches.append(batch)
            unreadable += bad
        return FreshRows(batches, dict(upto), unreadable)

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()
        self._ends.close()

    def _decode_embedded(
        self, messages: list[Message], dimensions: Mapping[str, int]
    ) -> tuple[EmbeddedBatch, int]:
        rows = [
            embedded_batches.Message(
                one.partition() or 0, one.offset() or 0, one.timestamp()[1], one.key(), one.value()
            )
            for one in messages
        ]
        decoded = self._embedded.decode(rows, dimensions)
        return decoded.batch, len(decoded.letters)

    def _decode_states(
        self, messages: list[Message], dimensions: Mapping[str, int]
    ) -> tuple[EmbeddedBatch, int]:
        partitions = np.array([one.partition() or 0 for one in messages], np.int64)
        read = self._states.decode([one.value() for one in messages], partitions)
        return attribute_rows(read.records, read.tails), len(read.unreadable)


def attribute_rows(records: Records, tails: Sequence[bytes]) -> EmbeddedBatch:
    """Pin states as rows that have attributes and no embedding."""
    attributes = np.zeros(len(records), ATTRIBUTES)
    for name in ATTRIBUTES.names or ():
        if name not in _NOT_STATE:
            attributes[name] = records[name]
    # A Pin whose status nobody has told is active, as its row on pin.embedded.v1 has it.
    attributes["status"] = np.where(records["status"] == 0, STATUS_CODES["active"], records["status"])
    return EmbeddedBatch(
        attributes=attributes,
        vectors=[b""] * len(records),
        titles=[orjson.loads(tail) if tail else "" for tail in tails],
        versions=[NO_VERSION],
        version_code=np.zeros(len(records), np.uint8),
    )


def _is_of_use(error: KafkaError | None) -> bool:
    """A message, or the note that a partition has ended. What passes by itself is no error here."""
    if error is None or error.code() == KafkaError._PARTITION_EOF:
        return True
    if error.fatal():
        raise RetryableError(error.str())
    log.debug("consumer: %s", error)
    return False
