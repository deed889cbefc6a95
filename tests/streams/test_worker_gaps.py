"""What the next owner of a partition finds when the one before it was killed, or had no time."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from features.pin_state import PIN_RECORD, Records
from features.store import MemoryStore
from schemas.codec import decode, encode
from schemas.embeddings import PinEmbedded
from schemas.events import PinChanged
from schemas.states import StateCheckpointed
from schemas.topics import PIN_CHANGED, PIN_EMBEDDED, PIN_FEATURES, STATE_CHECKPOINTED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, producer_config
from streams.telemetry import EnrichmentTelemetry
from streams.tower_output import PinEmbedder
from streams.worker import EnrichmentWorker
from streams.worker_settings import WorkerSettings
from tests.fakes import FakeEmbedded, FakePinTower
from tests.schemas.examples import VERSION_A, VERSION_B
from tests.streams.enrichment_oracle import read_all
from tests.streams.running_worker import DEADLINE_SECONDS, SETTINGS

RARELY = replace(SETTINGS, flush_seconds=1_000.0)
PIN = 5


@pytest.fixture
def kafka() -> Iterator[KafkaSettings]:
    with EmbeddedBroker() as broker:
        yield KafkaSettings(
            bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=2_000, heartbeat_interval_ms=300
        )


class _Worker:
    """Driven turn by turn."""

    def __init__(
        self, kafka: KafkaSettings, towers: Sequence[PinEmbedder], settings: WorkerSettings = RARELY
    ) -> None:
        self.metrics = CollectorRegistry()
        telemetry, store = EnrichmentTelemetry(self.metrics), MemoryStore(PIN_RECORD)
        self.worker = EnrichmentWorker(kafka, settings, store, lambda: towers, telemetry, time.monotonic)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.get_sample_value(f"skewless_enrichment_{name}", labels) or 0.0

    def turn_until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not reached():
            assert time.monotonic() < deadline
            self.worker.turn()

    def crash(self) -> None:
        """Nothing is finished any more."""
        self.worker._discarding = True
        self.worker.stop()


class _Picky(FakePinTower):
    """Fails on Pins of one price."""

    def embed(self, pins: Records, /) -> FakeEmbedded:
        if (pins["price_micros"] == 50).any():
            raise ValueError("fifty")
        return super().embed(pins)


def _publish(kafka: KafkaSettings, price: int) -> None:
    producer = Producer(producer_config(kafka))
    event = PinChanged(pin_id=PIN, occurred_at_ms=5, price_micros=price)
    producer.produce(PIN_CHANGED.name, encode(event), key=b"%d" % PIN)
    assert producer.flush(10) == 0


def _embedded(kafka: KafkaSettings) -> list[list[str]]:
    """What the newest checkpoint of each partition with events calls complete."""
    said = [decode(StateCheckpointed, one.value()) for one in read_all(kafka, STATE_CHECKPOINTED.name)]
    newest = {one.partition: one for one in said if sum(one.covers.values())}
    return [one.embedded for one in newest.values()]


def _prices(kafka: KafkaSettings, version: str) -> list[int | None]:
    rows = [decode(PinEmbedded, one.value()) for one in read_all(kafka, PIN_EMBEDDED.name)]
    return [row.price_micros for row in rows if row.tower_version == version]


def test_no_checkpoint_calls_a_candidate_complete_once_it_lacks_a_row_also_after_a_kill(
    kafka: KafkaSettings,
) -> None:
    _publish(kafka, 1)
    first = _Worker(kafka, [FakePinTower(), _Picky(version=VERSION_B)])
    first.turn_until(lambda: first.value("rows_total", tower="1") >= 1)
    # The flush of the start may have come before the Pin.
    first.worker._flush.hasten()
    first.turn_until(lambda: _embedded(kafka) == [[VERSION_A, VERSION_B]])

    _publish(kafka, 50)
    first.turn_until(lambda: first.value("left_out_pins_total", tower="1") == 1)
    first.worker._settle(wait_for_commit=True)
    assert set(_prices(kafka, VERSION_A)) == {1, 50}
    assert set(_prices(kafka, VERSION_B)) == {1}
    first.crash()
    assert _embedded(kafka) == [[VERSION_A]]

    second = _Worker(kafka, [FakePinTower(), FakePinTower(version=VERSION_B)])
    second.turn_until(lambda: set(_prices(kafka, VERSION_B)) == {1, 50})
    second.crash()


def test_what_a_handover_had_no_time_to_flush_is_left_to_the_next_owner(kafka: KafkaSettings) -> None:
    worker = _Worker(kafka, [FakePinTower()], replace(RARELY, drain_seconds=0.0))
    worker.turn_until(lambda: worker.value("partitions") == 2 * PIN_CHANGED.partitions)
    # What a first flush was hastened for is out before the Pin changes.
    worker.turn_until(lambda: len(read_all(kafka, STATE_CHECKPOINTED.name)) == PIN_CHANGED.partitions)
    _publish(kafka, 1)
    worker.turn_until(lambda: worker.value("rows_total", tower="0") == 1)

    intake = worker.worker._intake
    intake._on_revoke(intake._consumer, [])
    intake._consumer.unassign()
    worker.worker._flush.hasten()
    for _ in range(3):
        worker.worker.turn()

    assert read_all(kafka, PIN_FEATURES.name) == []
    worker.crash()
