"""A broker's topics, read as a history."""

from collections.abc import Iterator, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from schemas.codec import decode
from schemas.embeddings import PinEmbedded, embedded_key
from schemas.errors import InvalidMessage
from schemas.events import PinAggregated, PinChanged
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED, PIN_EMBEDDED
from streams.kafka import KafkaSettings, consumer_config
from tests.streams.enrichment_oracle import KEPT, read_all
from tests.streams.history import History, Place, Produced, Published
from tests.streams.kill_suite.workload import Ends

_SOURCES = ((PIN_CHANGED, PinChanged), (PIN_AGGREGATED, PinAggregated))
SOURCE_PARTITIONS = [
    TopicPartition(topic.name, number) for topic, _ in _SOURCES for number in range(topic.partitions)
]


class Watch:
    """Reads from outside what a group has committed."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._consumer = Consumer(consumer_config(settings, settings.enrichment_group, {"log_level": 0}))
        self._last: Ends = {}

    def committed(self) -> Ends:
        """Next offset by partition; the last answer when the broker does not give one now."""
        try:
            answer = self._consumer.committed(SOURCE_PARTITIONS, timeout=2)
        except KafkaException:
            return self._last
        if not any(one.error for one in answer):
            self._last = {(one.topic, one.partition): max(0, one.offset) for one in answer}
        return self._last

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


def history(settings: KafkaSettings, versions: Sequence[str]) -> History:
    """Everything on the topics now. Decodes one message after the other, with pydantic, not as the worker."""
    watch = Watch(settings)
    try:
        processed = watch.committed()
    finally:
        watch.close()
    return History(
        produced=[one for topic, model in _SOURCES for one in _produced(settings, topic.name, model)],
        processed=processed,
        published=[_published(message) for message in read_all(settings, PIN_EMBEDDED.name)],
        letters=[_letter(message) for topic, _ in _SOURCES for message in read_all(settings, topic.dlq)],
        versions=versions,
    )


def _produced(
    settings: KafkaSettings, topic: str, model: type[PinChanged] | type[PinAggregated]
) -> Iterator[Produced]:
    for message in read_all(settings, topic):
        place = (topic, message.partition() or 0, message.offset() or 0)
        try:
            event = decode(model, message.value())
        except InvalidMessage:
            yield Produced(place)
            continue
        fields = event.model_dump()
        sets = {name: fields[name] for name in KEPT if fields.get(name) is not None}
        yield Produced(place, event.occurred_at_ms, event.pin_id, sets)


def _published(message: Message) -> Published:
    row = decode(PinEmbedded, message.value())
    assert message.key() == embedded_key(row.pin_id, row.tower_version)
    return Published(
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=(row.pin_id, row.tower_version),
        changed_offset=row.changed_offset,
        aggregated_offset=row.aggregated_offset,
        fields={name: getattr(row, name) for name in (*KEPT, "occurred_at_ms")} | {"vector": row.vector},
    )


def _letter(message: Message) -> Place:
    headers: Any = message.headers() or []
    story = {name: (value or b"").decode("utf-8", "replace") for name, value in headers}
    return story["x-dlq-topic"], int(story["x-dlq-partition"]), int(story["x-dlq-offset"])
