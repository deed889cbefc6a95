"""Events on a broker, what a plain-Python fold makes of them, and what came out on the other side."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from schemas.codec import decode, encode
from schemas.embeddings import PinEmbedded, embedded_key
from schemas.errors import InvalidMessage
from schemas.events import PinAggregated, PinChanged
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED, PIN_EMBEDDED
from streams.kafka import KafkaSettings, consumer_config, producer_config

KEPT = ("status", "title", "price_micros", "bid_micros", "advertiser_id", "starts_at_ms", "ends_at_ms")
_POISON = [b"", b"{", b"null", b'{"pin_id":1}', b'{"pin_id":1,"occurred_at_ms":-1}', b"\xff\xfe"]


def publish(settings: KafkaSettings, count: int, pins: int, seed: int) -> None:
    """Put `messages` on the sources, acknowledged."""
    producer = Producer(producer_config(settings))
    for topic, key, value in messages(count, pins, seed):
        producer.produce(topic, value, key=key)
        producer.poll(0)
    assert producer.flush(30) == 0


def messages(count: int, pins: int, seed: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Changes, one aggregate in eight, one poison message in fifty, over `pins` Pins: topic, key, value."""
    rng = random.Random(seed)
    for number in range(count):
        pin, way = rng.randrange(pins), rng.random()
        topic = PIN_AGGREGATED.name if way < 0.125 else PIN_CHANGED.name
        value = _poison(rng) if rng.random() < 0.02 else _event(rng, topic, pin, 1_000 + number)
        yield topic, b"%d" % pin, value


def _poison(rng: random.Random) -> bytes:
    return rng.choice(_POISON)


def _event(rng: random.Random, topic: str, pin: int, occurred_at_ms: int) -> bytes:
    if topic == PIN_AGGREGATED.name:
        visits = sorted(rng.randrange(100) for _ in range(4))
        return encode(PinAggregated(pin_id=pin, occurred_at_ms=occurred_at_ms, offsite_visits=visits))
    fields: dict[str, Any] = {
        "status": rng.choice(["active", "paused"]),
        "title": f"Pin {rng.randrange(10_000)} «é»",
        "price_micros": rng.randrange(10**9),
        "bid_micros": rng.randrange(10**6),
        "advertiser_id": rng.randrange(100),
        "starts_at_ms": rng.randrange(10**9),
        "ends_at_ms": rng.randrange(10**9),
    }
    chosen = {name: value for name, value in fields.items() if rng.random() < 0.4}
    return encode(PinChanged.model_validate(chosen | {"pin_id": pin, "occurred_at_ms": occurred_at_ms}))


def read_all(settings: KafkaSettings, topic: str) -> list[Message]:
    """Every message of a topic, partition by partition, in offset order."""
    consumer = Consumer(consumer_config(settings, "reader"))
    partitions = list(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    marks = {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10) for n in partitions}
    unread = {number: high for number, (low, high) in marks.items() if high > low}
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in unread])
    read: list[Message] = []
    while unread:
        # Compaction leaves holes, so it is the last offset that tells, not the count.
        for one in consumer.consume(1000, 0.2):
            if one.error() is None:
                read.append(one)
                if (one.offset() or 0) + 1 >= unread.get(one.partition() or 0, 0):
                    unread.pop(one.partition() or 0, None)
    consumer.close()
    return sorted(read, key=lambda one: (one.partition() or 0, one.offset() or 0))


@dataclass
class Oracle:
    """What has to come out: per Pin the merged fields and offsets; per poison message its place."""

    pins: dict[int, dict[str, Any]] = field(default_factory=dict)
    poison: dict[tuple[str, int, int], tuple[bytes | None, bytes | None]] = field(default_factory=dict)

    def fold(self, settings: KafkaSettings) -> "Oracle":
        """Fold everything on the sources, one event after the other."""
        for topic, model, offset_field in (
            (PIN_CHANGED.name, PinChanged, "changed_offset"),
            (PIN_AGGREGATED.name, PinAggregated, "aggregated_offset"),
        ):
            for message in read_all(settings, topic):
                self._take(topic, model, offset_field, message)
        return self

    def _take(self, topic: str, model: Any, offset_field: str, message: Message) -> None:
        place = (topic, message.partition() or 0, message.offset() or 0)
        try:
            event = decode(model, message.value())
        except InvalidMessage:
            self.poison[place] = (message.key(), message.value())
            return
        state = self.pins.setdefault(event.pin_id, {"changed_offset": -1, "aggregated_offset": -1})
        state |= {name: one for name, one in event.model_dump().items() if name in KEPT and one is not None}
        state[offset_field] = place[2]
        state["occurred_at_ms"] = max(state.get("occurred_at_ms", 0), event.occurred_at_ms)


def check(settings: KafkaSettings, oracle: Oracle, tower_version: str) -> Counter[str]:
    """Assert that the newest row of every key is the oracle's and each poison has its letter."""
    newest: dict[bytes, PinEmbedded] = {}
    rows = read_all(settings, PIN_EMBEDDED.name)
    for message in rows:
        row = decode(PinEmbedded, message.value())
        assert message.key() == embedded_key(row.pin_id, row.tower_version)
        if row.revision >= (newest[message.key() or b""].revision if message.key() in newest else -2):
            newest[message.key() or b""] = row
    assert {row.pin_id for row in newest.values()} == set(oracle.pins)
    for pin, state in oracle.pins.items():
        row = newest[embedded_key(pin, tower_version)]
        assert {name: getattr(row, name) for name in state} == state
    letters = [one for topic in (PIN_CHANGED, PIN_AGGREGATED) for one in read_all(settings, topic.dlq)]
    told: dict[tuple[str, int, int], tuple[bytes | None, bytes | None]] = {}
    for letter in letters:
        story = dict(letter.headers() or [])
        text = {name: (story[f"x-dlq-{name}"] or b"").decode() for name in ("topic", "partition", "offset")}  # type: ignore[union-attr]
        assert story["x-dlq-reason"] in (b"decode_error", b"schema_invalid")
        told[text["topic"], int(text["partition"]), int(text["offset"])] = (letter.key(), letter.value())
    assert (
        told == {place: (key, value or None) for place, (key, value) in oracle.poison.items()}
        or told == oracle.poison
    )
    return Counter(rows=len(rows), keys=len(newest), letters=len(letters), poison=len(oracle.poison))
