"""The events of the enrichment benchmark, and the brokers they are put on."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # not in __all__

from schemas.topics import PIN_CHANGED, TOPICS
from schemas.vectors import CONTENT_DIMENSION, encode_fp16
from streams.embedded_broker import (
    PARTITION_MAX_BYTES,
    PARTITION_MAX_MESSAGES,
    EmbeddedBroker,
    default_topics,
)
from streams.kafka import KafkaSettings, producer_config
from streams.local_kafka import LocalKafka

PINS = 100_000
FIRST_MS = 1_700_000_000_000
SEED = 20

WARM_UP_TOPIC = "bench-warm-up"
WARM_UP_BYTES = 300 << 20

_VECTORS = 2048
_CHUNK = 5000
_FULL = 0.8
"""Share of an embedded broker's partition that is filled: keys do not fall on all of them evenly."""

Events = list[tuple[bytes, bytes]]
"""(key, value) of each."""


@dataclass(frozen=True)
class Workload:
    """What is on the source topic. `bytes` pads an event with a field that nobody knows.

    `poison_every`: each so many-th event is bad, by turns cut off (no JSON) and with a status that no
    Pin has.
    """

    spelling: Literal["base64", "array", "none"] = "base64"
    bytes: int = 0
    poison_every: int | None = None
    partitions: int = PIN_CHANGED.partitions


def events(count: int, workload: Workload | None = None) -> Events:
    """`count` partial updates over `PINS` Pins: attributes, placements, content."""
    workload = workload or Workload()
    rng = np.random.default_rng(SEED)
    vectors = _vectors(rng.normal(size=(_VECTORS, CONTENT_DIMENSION)), workload.spelling)
    pins = rng.integers(0, PINS, count).tolist()
    stores = rng.integers(0, 115, (_VECTORS, 10)).tolist()
    # Not one letter over and over: compression must not make the padding free.
    padding = rng.bytes(1 << 16).hex()
    made: Events = []
    for number, pin in enumerate(pins):
        stored, vector = stores[number % _VECTORS], vectors[number % _VECTORS]
        value = (
            f'{{"pin_id":{pin},"occurred_at_ms":{FIRST_MS + number},"status":"active",'
            f'"advertiser_id":{pin % 2500},"price_micros":{990_000 + number},"bid_micros":{100_000 + pin},'
            f'"daily_budget_micros":50000000,"starts_at_ms":{FIRST_MS},"interest_targeting":true,'
            f'"auto_targeting":false,"display_stores":{stored}{vector}}}'
        )
        start = number % 4096
        value = _padded(value.replace(" ", ""), workload.bytes, padding[start : start + workload.bytes])
        made.append((b"%d" % pin, value.encode()))
    return made if workload.poison_every is None else poisoned(made, workload.poison_every)


def _vectors(numbers: np.ndarray[tuple[int, int], np.dtype[np.float64]], spelling: str) -> list[str]:
    if spelling == "none":
        return [""] * len(numbers)
    if spelling == "base64":
        return [f',"content_embedding":"{encode_fp16(row)}"' for row in numbers.tolist()]
    return [f',"content_embedding":[{",".join(f"{x:.9f}" for x in row)}]' for row in numbers.tolist()]


def _padded(value: str, size: int, padding: str) -> str:
    missing = size - len(value) - len(',"note":""')
    return value if missing <= 0 else f'{value[:-1]},"note":"{padding[:missing]}"}}'


def poisoned(made: Events, every: int, first: int | None = None) -> Events:
    """The events with one bad one in `every`, the first of them at row `first`."""
    bad = list(made)
    for place, row in enumerate(range(every // 2 if first is None else first, len(made), every)):
        key, value = made[row]
        bad[row] = (key, value[:-1] if place % 2 else value.replace(b'"active"', b'"broken"'))
    return bad


@dataclass(frozen=True)
class Broker:
    """A broker with our topics on it."""

    settings: KafkaSettings
    kind: str


def fits(count: int, event_bytes: int, partitions: int) -> int:
    """How many of `count` events the broker that will be started keeps."""
    if os.environ.get("KAFKA_HOME"):
        return count
    room = min(PARTITION_MAX_MESSAGES, PARTITION_MAX_BYTES // event_bytes)
    return min(count, int(room * partitions * _FULL))


@contextmanager
def broker(partitions: int, extra_topics: Mapping[str, int] | None = None) -> Iterator[Broker]:
    """A real Kafka when KAFKA_HOME is set, else the embedded broker; topics have at most `partitions`."""
    home = os.environ.get("KAFKA_HOME")
    topics = {name: min(count, partitions) for name, count in default_topics().items()}
    topics |= dict(extra_topics or {})
    with ExitStack() as stack:
        if not home:
            address = stack.enter_context(EmbeddedBroker(topics.items())).bootstrap_servers
            yield Broker(KafkaSettings(bootstrap_servers=address), "embedded broker")
            return
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(LocalKafka(Path(home), folder / "kafka")).bootstrap_servers
        admin = AdminClient({"bootstrap.servers": address})
        compacted = {topic.name for topic in TOPICS.values() if topic.compacted}
        new = [
            NewTopic(name, count, 1, config={"cleanup.policy": "compact"} if name in compacted else {})
            for name, count in topics.items()
        ]
        for future in admin.create_topics(new).values():
            future.result(15)
        yield Broker(KafkaSettings(bootstrap_servers=address), "Kafka")


def warm_up(settings: KafkaSettings, made: Events) -> None:
    """Put the events on a topic that nobody reads, often enough for the broker's JVM to have compiled itself.

    Without it a row costs a fresh broker three times the processor time, and whoever runs first pays.
    """
    size = sum(len(value) for _, value in made)
    for _ in range(-(-WARM_UP_BYTES // size)):
        publish(settings, made, WARM_UP_TOPIC)


def publish(settings: KafkaSettings, made: Events, topic: str = PIN_CHANGED.name) -> None:
    """Put the events on a topic, acknowledged."""
    producer = Producer(producer_config(settings))
    for start in range(0, len(made), _CHUNK):
        chunk = [{"key": key, "value": value} for key, value in made[start : start + _CHUNK]]
        # A full queue takes what fits and marks the rest, without an exception.
        while producer.produce_batch(topic, chunk) < len(chunk):
            chunk = [{"key": one["key"], "value": one["value"]} for one in chunk if "_error" in one]
            producer.poll(0.1)
        producer.poll(0)
    if producer.flush(60):
        raise RuntimeError("the broker did not take the benchmark's events in 60 s")
