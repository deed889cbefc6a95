"""Messages as they come from the consumer → source batches by columns."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message

from schemas.cloudevents import read_headers
from schemas.errors import RetryableError

from .dead_letters import Headers, headers_of
from .positions import Partition
from .sources import Source, SourceBatch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """Source batches, the messages behind their rows, and the next offset of every partition in them.

    `known` are batches of silent events, which the previous owner of their partition has emitted: they are
    folded before `batches`. A row of a batch of a topic is the message at that place of the topic's list.
    """

    batches: list[SourceBatch]
    messages: dict[str, list[Message]]
    offsets: dict[Partition, int]
    known: list[SourceBatch] = field(default_factory=list)
    known_messages: dict[str, list[Message]] = field(default_factory=dict)

    def headers(self, topic: str, row: int) -> Headers | None:
        """The Kafka headers of one row of `batches`."""
        return headers_of(self.messages[topic][row])

    def known_headers(self, topic: str, row: int) -> Headers | None:
        """The Kafka headers of one row of `known`."""
        return headers_of(self.known_messages[topic][row])


class Ascending:
    """Sees to it that no partition is read backwards.

    A log that begins again below what was read (made anew, cut short) would look like redelivered events,
    and the positions that are stored would fall with it.
    """

    def __init__(self) -> None:
        self._next: dict[Partition, int] = {}

    def follow(self, one: Fetched) -> None:
        """Raises RetryableError for an offset below what was read before: where to start is asked anew."""
        for batch in (*one.known, *one.batches):
            lowest = np.full(int(batch.partitions.max()) + 1, np.iinfo(np.int64).max)
            np.minimum.at(lowest, batch.partitions, batch.offsets)
            for number in np.unique(batch.partitions).tolist():
                before = self._next.get((batch.source.topic, number), 0)
                if lowest[number] < before:
                    where = f"{batch.source.topic}[{number}]"
                    raise RetryableError(f"{where} goes on at offset {lowest[number]}, {before} was expected")
        self._next |= one.offsets


def fetched(
    sources: Mapping[str, Source], messages: Sequence[Message], silent_until: Mapping[Partition, int]
) -> Fetched:
    """Sort messages by source; those below `silent_until` of their partition apart."""
    known: list[Message] = []
    if silent_until:
        fresh: list[Message] = []
        for one in messages:
            bound = silent_until.get((one.topic() or "", one.partition() or 0), 0)
            (known if (one.offset() or 0) < bound else fresh).append(one)
        messages = fresh
    batches, by_topic = _batches(sources, messages)
    known_batches, known_by_topic = _batches(sources, known)
    offsets: dict[Partition, int] = {}
    for batch in known_batches + batches:
        # Offsets ascend within a partition, so the last one written stands.
        last = dict(zip(batch.partitions.tolist(), batch.offsets.tolist(), strict=True))
        offsets |= {(batch.source.topic, number): offset + 1 for number, offset in last.items()}
    return Fetched(batches, by_topic, offsets, known_batches, known_by_topic)


def _batches(
    sources: Mapping[str, Source], messages: Sequence[Message]
) -> tuple[list[SourceBatch], dict[str, list[Message]]]:
    by_topic: dict[str, list[Message]] = {}
    topics = [str(message.topic()) for message in messages]
    for topic in set(topics):
        by_topic[topic] = [one for one, its in zip(messages, topics, strict=True) if its == topic]
    return [_source_batch(sources[topic], by_topic[topic]) for topic in sorted(by_topic)], by_topic


def _source_batch(source: Source, messages: Sequence[Message]) -> SourceBatch:
    size = len(messages)

    def event_type(row: int) -> str | None:
        return read_headers(headers_of(messages[row])).get("ce_type")

    # Headers are asked for bad rows only: reading them costs 2.9 µs a message, half of all the rest.
    return SourceBatch(
        source=source,
        keys=[one.key() for one in messages],
        values=[one.value() for one in messages],
        partitions=np.fromiter([one.partition() for one in messages], np.int64, size),
        offsets=np.fromiter([one.offset() for one in messages], np.int64, size),
        ingested_at_ms=np.fromiter([one.timestamp()[1] for one in messages], np.int64, size),
        event_type=event_type,
    )


def is_event(message: Message) -> bool:
    """Whether it is an event and not an error. Raises KafkaException where trying again mends nothing."""
    error: KafkaError | None = message.error()
    if error is None:
        return True
    if error.fatal() or (not error.retriable() and error.code() != KafkaError._PARTITION_EOF):
        raise KafkaException(error)
    log.warning("consumer: %s", error)
    return False
