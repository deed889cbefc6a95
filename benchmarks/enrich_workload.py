"""The events of the enrichment benchmark, and the brokers they are put on."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # not in __all__

from schemas.topics import PIN_CHANGED
from schemas.vectors import CONTENT_DIMENSION, encode_fp16
from streams.embedded_broker import EmbeddedBroker, default_topics
from streams.kafka import KafkaSettings, ensure_topics, producer_config
from streams.local_kafka import local_kafka

PINS = 100_000
_VECTORS = 2048
_CHUNK = 5000
FIRST_MS = 1_700_000_000_000


def events(count: int, seed: int) -> list[tuple[bytes, bytes]]:
    """(key, value) of `count` partial updates over `PINS` Pins: attributes, placements, content."""
    rng = np.random.default_rng(seed)
    vectors = [encode_fp16(row.tolist()) for row in rng.normal(size=(_VECTORS, CONTENT_DIMENSION))]
    pins = rng.integers(0, PINS, count).tolist()
    stores = rng.integers(0, 115, (_VECTORS, 10)).tolist()
    made: list[tuple[bytes, bytes]] = []
    for number, pin in enumerate(pins):
        value = (
            f'{{"pin_id":{pin},"occurred_at_ms":{FIRST_MS + number},"status":"active",'
            f'"advertiser_id":{pin % 2500},"price_micros":{990_000 + number},"bid_micros":{100_000 + pin},'
            f'"daily_budget_micros":50000000,"starts_at_ms":{FIRST_MS},"interest_targeting":true,'
            f'"auto_targeting":false,"display_stores":{stores[number % _VECTORS]},'
            f'"content_embedding":"{vectors[number % _VECTORS]}"}}'
        )
        made.append((b"%d" % pin, value.replace(" ", "").encode()))
    return made


@dataclass(frozen=True)
class Broker:
    """A broker with our topics on it."""

    settings: KafkaSettings
    kind: str


@contextmanager
def broker(extra_topics: dict[str, int]) -> Iterator[Broker]:
    """A real Kafka when KAFKA_HOME is set, else the embedded broker. `extra_topics`: name -> partitions."""
    home = os.environ.get("KAFKA_HOME")
    with ExitStack() as stack:
        if home is None:
            topics = default_topics() | extra_topics
            address = stack.enter_context(EmbeddedBroker(topics.items())).bootstrap_servers
            yield Broker(KafkaSettings(bootstrap_servers=address), "embedded broker")
            return
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(local_kafka(Path(home), folder / "kafka"))
        settings = KafkaSettings(bootstrap_servers=address)
        ensure_topics(settings)
        new = [NewTopic(name, partitions, 1) for name, partitions in extra_topics.items()]
        admin = AdminClient({"bootstrap.servers": address})
        for future in admin.create_topics(new).values() if new else ():
            future.result(15)
        yield Broker(settings, "Kafka")


def publish(settings: KafkaSettings, made: list[tuple[bytes, bytes]]) -> None:
    """Put the events on pin.changed.v1, acknowledged."""
    producer = Producer(producer_config(settings))
    for start in range(0, len(made), _CHUNK):
        chunk = [{"key": key, "value": value} for key, value in made[start : start + _CHUNK]]
        producer.produce_batch(PIN_CHANGED.name, chunk)
        producer.poll(0)
    if producer.flush(60):
        raise RuntimeError("the broker did not take the benchmark's events in 60 s")


class GroupProgress:
    """Reads how far a group has committed, from outside of its processes."""

    def __init__(self, settings: KafkaSettings, group: str) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": settings.bootstrap_servers, "group.id": group, "enable.auto.commit": False}
        )
        self._partitions = [TopicPartition(PIN_CHANGED.name, n) for n in range(PIN_CHANGED.partitions)]

    def committed(self) -> int:
        """Events committed, over all partitions; 0 while the group's coordinator is still starting."""
        try:
            answer = self._consumer.committed(self._partitions, timeout=10)
        except KafkaException:
            return 0
        return sum(max(0, one.offset) for one in answer)

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


@dataclass(frozen=True)
class Rate:
    """Events per second between the first and the last commit seen, and how many events that were."""

    events_per_second: float
    events: int
    seconds: float
    complete: bool


_START_UP_SECONDS = 25.0
"""Until the first commit: importing torch, joining, and the rebalance when a second process joins."""


def watch(progress: GroupProgress, total: int, limit_seconds: float) -> Rate:
    """Watch a group until it has committed `total` events, or for `limit_seconds` after its first commit.

    Before the first commit it waits `_START_UP_SECONDS`.
    """
    begun = time.perf_counter()
    first: tuple[float, int] | None = None
    last = (begun, 0)
    while last[1] < total:
        now, count = time.perf_counter(), progress.committed()
        if count > last[1]:
            last = (now, count)
            first = first or last
        if now - first[0] > limit_seconds if first else now - begun > _START_UP_SECONDS:
            break
        time.sleep(0.02)
    if first is None:
        return Rate(0.0, 0, 0.0, complete=False)
    if last[0] == first[0]:
        # All of it came with one commit: what is left to divide by is the time since the start, start-up
        # and rebalance included, so the rate is far too low rather than too high.
        return Rate(last[1] / (last[0] - begun), last[1], last[0] - begun, complete=last[1] >= total)
    seconds, count = last[0] - first[0], last[1] - first[1]
    return Rate(count / seconds, count, seconds, complete=last[1] >= total)
