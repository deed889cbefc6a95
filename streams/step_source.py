"""The source topics beside Faust: how partitions stand, what the group has, ranges to read again."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.errors import RetryableError

from .kafka import KafkaClients, KafkaSettings, consumer_config
from .positions import Partition
from .steps import RawEvent
from .topic_reader import Record, Spans, TopicReader

log = logging.getLogger(__name__)

_ASK_SECONDS = 10.0


@dataclass(frozen=True)
class PartitionStanding:
    """One partition: first offset, the one after the last, and the group's next (None: it has none)."""

    low: int
    high: int
    committed: int | None


class StepSource(Protocol):
    """What the loop asks about its source topics. Raises RetryableError when the broker does not answer."""

    def partitions(self, topics: Sequence[str]) -> list[Partition]:
        """All partitions of these topics."""
        ...

    def standing(self, partitions: Sequence[Partition]) -> dict[Partition, PartitionStanding]:
        """How each of these stands now."""
        ...

    def read(self, topic: str, spans: Spans) -> Iterator[list[RawEvent]]:
        """Messages of these offsets, those of one partition in order, in batches."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


class KafkaStepSource:
    """The source on a real (or the embedded) broker. Joins no group and commits nothing."""

    def __init__(self, settings: KafkaSettings, group: str) -> None:
        self._settings = settings
        self._consumer: Consumer = KafkaClients().consumer(consumer_config(settings, group))

    def partitions(self, topics: Sequence[str]) -> list[Partition]:
        """See `StepSource`."""
        try:
            known = self._consumer.list_topics(timeout=_ASK_SECONDS).topics
        except KafkaException as error:
            raise RetryableError(f"Kafka is out of reach: {error.args[0].str()}") from error
        return [(name, number) for name in topics if name in known for number in known[name].partitions]

    def standing(self, partitions: Sequence[Partition]) -> dict[Partition, PartitionStanding]:
        """See `StepSource`."""
        wanted = [TopicPartition(*partition) for partition in partitions]
        try:
            committed = self._consumer.committed(wanted, timeout=_ASK_SECONDS) if wanted else []
            return {(one.topic, one.partition): self._standing(one) for one in committed}
        except KafkaException as error:
            raise RetryableError(f"Kafka is out of reach: {error.args[0].str()}") from error

    def _standing(self, one: TopicPartition) -> PartitionStanding:
        place = TopicPartition(one.topic, one.partition)
        low, high = self._consumer.get_watermark_offsets(place, timeout=_ASK_SECONDS)
        return PartitionStanding(low, high, one.offset if one.offset >= 0 else None)

    def read(self, topic: str, spans: Spans) -> Iterator[list[RawEvent]]:
        """See `StepSource`."""
        with TopicReader(self._settings) as reader:
            for batch in reader.read(topic, spans):
                yield [_event(one) for one in batch]

    def close(self) -> None:
        """See `StepSource`."""
        self._consumer.close()


def _event(one: Record) -> RawEvent:
    return RawEvent(
        topic=one.topic,
        partition=one.partition,
        offset=one.offset,
        ingested_at_ms=one.timestamp_ms,
        key=one.key,
        value=one.value,
        headers=one.headers,
    )
