"""The Kafka edge of the snapshot cutter: pin.embedded.v1 read by assigned partitions."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.errors import RetryableError
from schemas.topics import PIN_EMBEDDED

from .checkpoints import Positions
from .embedded_batches import Message

log = logging.getLogger(__name__)

_ASK_SECONDS = 10.0


class EmbeddedTopic(Protocol):
    """What the cutter needs of pin.embedded.v1."""

    def ends(self) -> Positions:
        """The end (next offset to be written) of each partition that is to be read."""
        ...

    def read_from(self, positions: Positions) -> None:
        """Read on from these offsets, whatever was read before."""
        ...

    def read(self, count: int, timeout_seconds: float) -> list[Message]:
        """Up to `count` messages, those of one partition in order; empty when none came in time."""
        ...

    def lag(self, positions: Positions) -> int:
        """Messages from these offsets to the ends, as far as is known without asking."""
        ...

    def commit(self, positions: Positions) -> None:
        """Tell the group what is durable."""
        ...


class KafkaEmbeddedTopic:
    """pin.embedded.v1 on Kafka. The consumer is not subscribed to anything; its owner closes it.

    All partitions are assigned by hand, because a snapshot needs every one.
    Raises RetryableError when Kafka reports an error that trying again here does not mend.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def ends(self) -> Positions:
        """See `EmbeddedTopic`."""
        with _worth_another_start():
            metadata = self._consumer.list_topics(PIN_EMBEDDED.name, timeout=_ASK_SECONDS)
            numbers = sorted(metadata.topics[PIN_EMBEDDED.name].partitions)
            if not numbers:
                # Assigned to nothing, it would read nothing for ever and not say so.
                raise RetryableError(f"{PIN_EMBEDDED.name}: there is no such topic")
            return {number: self._end(number) for number in numbers}

    def _end(self, number: int) -> int:
        where = TopicPartition(PIN_EMBEDDED.name, number)
        return int(self._consumer.get_watermark_offsets(where, timeout=_ASK_SECONDS)[1])

    def read_from(self, positions: Positions) -> None:
        """See `EmbeddedTopic`."""
        with _worth_another_start():
            self._consumer.assign(_partitions(positions))

    def read(self, count: int, timeout_seconds: float) -> list[Message]:
        """See `EmbeddedTopic`."""
        with _worth_another_start():
            fetched = self._consumer.consume(count, timeout_seconds)
        return [
            Message(one.partition() or 0, one.offset() or 0, one.timestamp()[1], one.key(), one.value())
            for one in fetched
            if _is_row(one.error())
        ]

    def lag(self, positions: Positions) -> int:
        """See `EmbeddedTopic`; the ends are those of the last fetch."""
        with _worth_another_start():
            return sum(max(self._known_end(number) - at, 0) for number, at in positions.items())

    def _known_end(self, number: int) -> int:
        where = TopicPartition(PIN_EMBEDDED.name, number)
        return int(self._consumer.get_watermark_offsets(where, cached=True)[1])

    def commit(self, positions: Positions) -> None:
        """See `EmbeddedTopic`.

        NOTE: nothing resumes from these offsets; they tell operators and lag monitors how far we are.
        So a failure is only logged: the next cut commits later ones.
        """
        try:
            self._consumer.commit(offsets=_partitions(positions), asynchronous=False)
        except KafkaException as error:
            log.warning("commit: %s", error)


@contextmanager
def _worth_another_start() -> Iterator[None]:
    """What the client cannot mend: the process ends as unavailable, and its supervisor starts it again."""
    try:
        yield
    except KafkaException as error:
        raise RetryableError(f"{PIN_EMBEDDED.name}: {error}") from error


def _partitions(positions: Mapping[int, int]) -> list[TopicPartition]:
    return [TopicPartition(PIN_EMBEDDED.name, number, offset) for number, offset in positions.items()]


def _is_row(error: KafkaError | None) -> bool:
    if error is None:
        return True
    if error.fatal() or (not error.retriable() and error.code() != KafkaError._PARTITION_EOF):
        raise RetryableError(f"{PIN_EMBEDDED.name}: {error}")
    log.warning("consumer: %s", error)
    return False
