"""What the next owner of a partition finds when the one before it was killed, or had no time."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from prometheus_client import CollectorRegistry

from features.pin_state import PIN_RECORD, Records
from features.store import MemoryStore
from schemas.codec import decode, encode
from schemas.embeddings import PinEmbedded
from schemas.events import PinChanged
from schemas.states import StateCheckpointed
from schemas.topics import PIN_CHANGED, PIN_EMBEDDED, PIN_FEATURES, STATE_CHECKPOINTED
from streams.embedded_broker import EmbeddedBroker
from streams.fetched import Fetched
from streams.kafka import KafkaSettings, producer_config
from streams.murmur2 import partitions_of
from streams.state_flush import StateFlush
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
        self,
        kafka: KafkaSettings,
        towers: Sequence[PinEmbedder],
        settings: WorkerSettings = RARELY,
        disk: MemoryStore | None = None,
    ) -> None:
        self.metrics, self.towers = CollectorRegistry(), towers
        telemetry, store = EnrichmentTelemetry(self.metrics), disk or MemoryStore(PIN_RECORD)
        self.worker = EnrichmentWorker(kafka, settings, store, lambda: self.towers, telemetry, time.monotonic)

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
    _publish_all(kafka, PinChanged(pin_id=PIN, occurred_at_ms=5, price_micros=price))


def _publish_all(kafka: KafkaSettings, *events: PinChanged) -> None:
    producer = Producer(producer_config(kafka))
    for event in events:
        producer.produce(PIN_CHANGED.name, encode(event), key=b"%d" % event.pin_id)
    assert producer.flush(10) == 0


def _embedded(kafka: KafkaSettings) -> list[list[str]]:
    """What the newest checkpoint of each partition with events calls complete."""
    said = [decode(StateCheckpointed, one.value()) for one in read_all(kafka, STATE_CHECKPOINTED.name)]
    newest = {one.partition: one for one in said if sum(one.covers.values())}
    return [one.embedded for one in newest.values()]


def _prices(kafka: KafkaSettings, version: str) -> list[int | None]:
    """Of the rows of `PIN`."""
    rows = [decode(PinEmbedded, one.value()) for one in read_all(kafka, PIN_EMBEDDED.name)]
    return [row.price_micros for row in rows if (row.pin_id, row.tower_version) == (PIN, version)]


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


def _stop(worker: _Worker) -> None:
    """As SIGTERM stops it."""
    worker.worker._finish()
    worker.worker.stop()


def _rebalance(worker: _Worker) -> None:
    """The partitions go, and come back to the same process."""
    intake = worker.worker._intake
    partitions = [TopicPartition(*each) for each in sorted(intake.assigned)]
    intake._on_revoke(intake._consumer, [])
    intake._take(intake._consumer, partitions)


@contextmanager
def _filling_beside_events_alone(worker: EnrichmentWorker) -> Iterator[None]:
    """The backfill goes on in turns that take an event in; without any it stands still."""
    read, fill = worker._intake.read, worker._fill
    fetched: list[Fetched] = []

    def reading(count: int, timeout_seconds: float) -> Fetched | None:
        fetched[:] = [one for one in [read(count, timeout_seconds)] if one is not None]
        return fetched[0] if fetched else None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(worker._intake, "read", reading)
        patched.setattr(worker, "_fill", lambda *arguments: bool(fetched) and fill(*arguments))
        yield


@pytest.mark.parametrize("restarts", [True, False])
def test_a_backfill_that_is_interrupted_remembers_that_a_candidate_lacks_a_row_behind_it(
    kafka: KafkaSettings, restarts: bool
) -> None:
    settings = replace(RARELY, flush_seconds=1.0, backfill_chunk_pins=2)
    _publish_all(kafka, *(PinChanged(pin_id=pin, occurred_at_ms=5, price_micros=1) for pin in range(1, 300)))
    disk, candidate = MemoryStore(PIN_RECORD), _Picky(version=VERSION_B)
    first = _Worker(kafka, [FakePinTower()], settings, disk)
    first.turn_until(lambda: first.value("rows_total", tower="0") >= 299)
    first.towers = [FakePinTower(), candidate]
    progress = first.worker._backfill.progress
    first.turn_until(lambda: VERSION_B in progress and progress[VERSION_B].after >= PIN)
    with _filling_beside_events_alone(first.worker):
        _publish(kafka, 50)
        first.turn_until(lambda: first.value("left_out_pins_total", tower="1") == 1)
    assert progress[VERSION_B].partitions  # the pass is under way
    again = first
    if restarts:
        _stop(first)
        again = _Worker(kafka, first.towers, settings, disk)
    else:
        _rebalance(first)
    again.turn_until(
        lambda: (
            VERSION_B in again.worker._backfill.progress and again.worker._backfill.progress[VERSION_B].done
        )
    )
    _stop(again)
    checkpoints = [decode(StateCheckpointed, one.value()) for one in read_all(kafka, STATE_CHECKPOINTED.name)]
    newest = {one.partition: one.embedded for one in checkpoints}
    lacking = [number for number, embedded in newest.items() if VERSION_B not in embedded]
    assert lacking == partitions_of(np.array([PIN]), PIN_CHANGED.partitions).tolist()
    assert _prices(kafka, VERSION_B) == [1]

    third = _Worker(kafka, [FakePinTower(), FakePinTower(version=VERSION_B)], settings, disk)
    third.turn_until(lambda: 50 in _prices(kafka, VERSION_B))
    third.turn_until(lambda: third.value("backfill_complete", tower="1") == 1)
    third.crash()


def test_silent_events_that_were_embedded_together_are_not_lost_where_they_are_read_apart(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StateFlush, "hasten", lambda self: None)
    broken = PinChanged(pin_id=PIN, occurred_at_ms=5, price_micros=50, title="x")
    _publish_all(kafka, broken, PinChanged(pin_id=PIN, occurred_at_ms=5, price_micros=1))
    first = _Worker(kafka, [_Picky()])
    first.turn_until(lambda: first.value("rows_total", tower="0") >= 1)
    first.worker._settle(wait_for_commit=True)
    assert read_all(kafka, PIN_CHANGED.dlq) == []  # both in one batch
    first.crash()

    second = _Worker(kafka, [_Picky()], replace(RARELY, batch_events=1))
    caught_up = {"topic": PIN_CHANGED.name, "result": "caught_up"}
    second.turn_until(lambda: second.value("events_total", **caught_up) == 1)
    (letter,) = read_all(kafka, PIN_CHANGED.dlq)
    assert letter.value() == encode(broken)
    assert second.value("events_total", topic=PIN_CHANGED.name, result="dead_lettered") == 1
    second.crash()
