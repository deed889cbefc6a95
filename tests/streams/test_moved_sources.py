"""Source logs that lose or change their offsets while a worker reads them."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from prometheus_client import CollectorRegistry

from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from schemas.codec import encode
from schemas.events import PinChanged
from schemas.topics import PIN_CHANGED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, producer_config
from streams.murmur2 import partitions_of
from streams.telemetry import EnrichmentTelemetry
from streams.worker import EnrichmentWorker
from tests.fakes import FakePinTower
from tests.streams.running_worker import DEADLINE_SECONDS, SETTINGS

PIN = 5
PARTITION = int(partitions_of(np.array([PIN]), PIN_CHANGED.partitions)[0])


@pytest.fixture
def kafka() -> Iterator[KafkaSettings]:
    with EmbeddedBroker() as broker:
        yield KafkaSettings(
            bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=10_000, heartbeat_interval_ms=300
        )


def _publish(kafka: KafkaSettings, count: int, title: str = "") -> None:
    producer = Producer(producer_config(kafka, {"compression.type": "none"}))
    value = encode(PinChanged(pin_id=PIN, occurred_at_ms=5, title=title))
    for _ in range(count):
        producer.produce(PIN_CHANGED.name, value, key=b"%d" % PIN)
        producer.poll(0)
    assert producer.flush(20) == 0


class _Worker:
    def __init__(self, kafka: KafkaSettings) -> None:
        self.metrics, self.store = CollectorRegistry(), MemoryStore(PIN_RECORD)
        telemetry, towers = EnrichmentTelemetry(self.metrics), [FakePinTower()]
        self.worker = EnrichmentWorker(kafka, SETTINGS, self.store, lambda: towers, telemetry, time.monotonic)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.get_sample_value(f"skewless_enrichment_{name}", labels) or 0.0

    def events(self) -> float:
        """Taken in, whatever became of them."""
        results = ("applied", "redelivered", "caught_up")
        return sum(self.value("events_total", topic=PIN_CHANGED.name, result=one) for one in results)

    def missed(self) -> float:
        return self.value("missed_events_total", topic=PIN_CHANGED.name)

    def turn_until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not reached():
            assert time.monotonic() < deadline
            self.worker.turn()


def test_events_that_go_before_a_running_worker_has_read_them_are_counted(kafka: KafkaSettings) -> None:
    made = _Worker(kafka)
    _publish(kafka, 3)
    made.turn_until(lambda: made.events() == 3)

    where = [TopicPartition(PIN_CHANGED.name, PARTITION)]
    made.worker._intake._consumer.pause(where)
    _publish(kafka, 30_000, title="x" * 300)  # more than an embedded broker keeps of a partition
    low = made.worker._intake._marks([(PIN_CHANGED.name, PARTITION)])[PIN_CHANGED.name, PARTITION][0]
    assert low > 3
    made.worker._intake._consumer.resume(where)
    made.turn_until(lambda: made.events() >= 3 + 30_000 - (low - 3))

    assert made.missed() == low - 3
    assert made.value("reopened_total") == 1
    made.worker.stop()
