"""What falls between two owners of a partition: silent events, towers that come and go, a long sleep."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client import CollectorRegistry

from features.pin_state import PIN_RECORD, Records
from features.store import MemoryStore, RecordStore
from schemas.codec import decode, encode
from schemas.embeddings import PinEmbedded
from schemas.events import PinChanged
from schemas.states import StateCheckpointed
from schemas.topics import PIN_CHANGED, PIN_EMBEDDED, PIN_FEATURES, STATE_CHECKPOINTED
from streams.catch_up import fold_known
from streams.embedded_broker import EmbeddedBroker
from streams.intake import Intake
from streams.kafka import KafkaSettings, consumer_config, producer_config
from streams.sources import SourceBatch, enrichment_sources
from streams.state_flush import StateFlush
from streams.telemetry import EnrichmentTelemetry
from streams.worker import EnrichmentWorker
from streams.worker_settings import WorkerSettings
from tests.fakes import FakeEmbedded, FakePinTower
from tests.schemas.examples import VERSION_A, VERSION_B
from tests.streams.enrichment_oracle import Oracle, check, publish, read_all
from tests.streams.running_worker import SETTINGS

PINS = 40
NO_FLUSH = WorkerSettings(poll_seconds=0.02, flush_seconds=3600.0, status_interval_seconds=0.05)


@pytest.fixture
def kafka() -> Iterator[KafkaSettings]:
    with EmbeddedBroker() as broker:
        yield KafkaSettings(
            bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=2_000, heartbeat_interval_ms=300
        )


class _Stepped:
    """A worker that is driven turn by turn, under a clock that can be put forward."""

    def __init__(
        self, kafka: KafkaSettings, store: RecordStore, *versions: str, settings: WorkerSettings = SETTINGS
    ) -> None:
        self.registry, self.ahead = CollectorRegistry(), 0.0
        self.towers = [FakePinTower(version=one) for one in versions]
        self.worker = EnrichmentWorker(
            kafka,
            settings,
            store,
            lambda: self.towers,
            EnrichmentTelemetry(self.registry),
            lambda: time.monotonic() + self.ahead,
        )

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"skewless_enrichment_{name}", labels) or 0.0

    def turn_until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not reached():
            assert time.monotonic() < deadline
            self.worker.turn()

    def assigned(self) -> bool:
        return self.value("partitions") == 64

    def crash(self) -> None:
        self.worker.stop()


def _rows(kafka: KafkaSettings) -> list[PinEmbedded]:
    return [decode(PinEmbedded, one.value()) for one in read_all(kafka, PIN_EMBEDDED.name)]


def _said(kafka: KafkaSettings) -> dict[int, StateCheckpointed]:
    """Per partition what a new owner goes by: the highest offset, of equal ones the last."""
    said: dict[int, StateCheckpointed] = {}
    for message in read_all(kafka, STATE_CHECKPOINTED.name):
        one = decode(StateCheckpointed, message.value())
        if one.partition not in said or one.state_offset >= said[one.partition].state_offset:
            said[one.partition] = one
    return said


def test_a_tower_that_became_live_between_two_owners_has_the_newest_row_of_every_pin(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StateFlush, "hasten", lambda self: None)
    publish(kafka, 300, pins=PINS, seed=1)
    before = _Stepped(kafka, MemoryStore(PIN_RECORD), VERSION_A, settings=NO_FLUSH)
    before.turn_until(lambda: before.assigned() and before.worker._intake.lag(ask=True) == _NO_LAG)
    before.worker._settle(wait_for_commit=True)
    before.worker._settle(wait_for_commit=True)
    before.crash()

    after = _Stepped(kafka, MemoryStore(PIN_RECORD), VERSION_B, VERSION_A, settings=NO_FLUSH)
    after.turn_until(lambda: after.assigned() and after.worker._intake.lag(ask=True) == _NO_LAG)
    after.turn_until(lambda: after.value("backfill_complete", tower="1") == 1)
    after.worker._finish()
    assert after.value("events_total", topic=PIN_CHANGED.name, result="caught_up") > 0
    after.crash()
    oracle = Oracle().fold(kafka)
    assert check(kafka, oracle, VERSION_B)["rows"] >= len(oracle.pins)


_NO_LAG = {"pin.changed.v1": 0, "pin.aggregated.v1": 0}


def _complete(kafka: KafkaSettings, store: RecordStore, *versions: str) -> None:
    """A worker that leaves checkpoints which call these towers complete."""
    stepped = _Stepped(kafka, store, *versions)
    stepped.turn_until(stepped.assigned)
    stepped.turn_until(lambda: stepped.value("backfill_complete", tower=str(len(versions) - 1)) == 1)
    stepped.turn_until(lambda: stepped.worker._intake.lag(ask=True) == _NO_LAG)
    stepped.worker._finish()
    assert {tuple(one.embedded) for one in _said(kafka).values()} == {tuple(sorted(versions))}
    stepped.crash()


@pytest.mark.parametrize("same_disk", [True, False])
def test_checkpoints_of_an_earlier_owner_are_taken_back_before_rows_come_out_without_the_tower(
    kafka: KafkaSettings, same_disk: bool
) -> None:
    publish(kafka, 200, pins=PINS, seed=2)
    disk = MemoryStore(PIN_RECORD)
    _complete(kafka, disk, VERSION_A, VERSION_B)
    store = disk if same_disk else MemoryStore(PIN_RECORD)
    after = _Stepped(kafka, store, VERSION_A, settings=NO_FLUSH)
    after.turn_until(after.assigned)
    publish(kafka, 50, pins=PINS, seed=3)
    after.turn_until(lambda: after.value("rows_total", tower="0") >= 10)
    after.crash()
    assert {tuple(one.embedded) for one in _said(kafka).values()} == {(VERSION_A,)}


def test_a_checkpoint_that_is_on_its_way_when_a_tower_goes_is_taken_back_too(kafka: KafkaSettings) -> None:
    publish(kafka, 200, pins=PINS, seed=4)
    _complete(kafka, disk := MemoryStore(PIN_RECORD), VERSION_A, VERSION_B)
    after = _Stepped(kafka, disk, VERSION_A, VERSION_B, settings=NO_FLUSH)
    after.turn_until(after.assigned)
    publish(kafka, 100, pins=PINS, seed=5)
    after.turn_until(lambda: after.worker._intake.lag(ask=True) == _NO_LAG)
    after.worker._settle()
    after.worker._produce_states(after.worker._flush.next_rows(at_once=True))
    after.towers.pop()
    after.worker.turn()
    after.crash()
    assert {tuple(one.embedded) for one in _said(kafka).values()} == {(VERSION_A,)}


def test_a_worker_that_slept_between_two_turns_asks_the_group_too(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = _Stepped(kafka, MemoryStore(PIN_RECORD), VERSION_A)
    stepped.turn_until(stepped.assigned)
    monkeypatch.setattr(Intake, "still_ours", lambda self: False)
    publish(kafka, 200, pins=PINS, seed=7)
    while not stepped.value("reopened_total"):
        stepped.ahead += 4.0
        stepped.worker.turn()
        assert _rows(kafka) == []
    stepped.crash()


class _Picky(FakePinTower):
    """Fails on Pins of one price."""

    def embed(self, pins: Records) -> FakeEmbedded:
        if (pins["price_micros"] == 13).any():
            raise ValueError("thirteen")
        return super().embed(pins)


def test_an_event_folded_before_is_not_lost_beside_one_that_fails_in_the_same_silent_batch() -> None:
    source = enrichment_sources()[PIN_CHANGED.name]
    events = [
        PinChanged(pin_id=7, occurred_at_ms=5, advertiser_id=3),
        PinChanged(pin_id=7, occurred_at_ms=6, price_micros=13),
        PinChanged(pin_id=8, occurred_at_ms=6, price_micros=4),
    ]
    batch = SourceBatch(
        source,
        keys=[b"%d" % one.pin_id for one in events],
        values=[encode(one) for one in events],
        partitions=np.zeros(3, np.int64),
        offsets=np.arange(3),
        ingested_at_ms=np.full(3, 9),
        event_type=lambda row: None,
    )
    store = MemoryStore(PIN_RECORD)
    folded = fold_known([batch], store, [_Picky()], time.monotonic, None)
    store.put_many(folded.pin_ids, folded.records, folded.tails)
    assert sorted(folded.pin_ids.tolist()) == [7, 8]
    records, _, _ = store.get_many(np.array([7, 8]))
    assert records["advertiser_id"].tolist() == [3, 0]
    assert records["price_micros"].tolist() == [0, 4]
    assert records["changed_offset"].tolist() == [0, 2]


def _commit_beyond_the_end(kafka: KafkaSettings) -> None:
    consumer = Consumer(consumer_config(kafka, kafka.enrichment_group))
    offsets = [TopicPartition(PIN_CHANGED.name, number, 1_000) for number in range(PIN_CHANGED.partitions)]
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()


def test_events_of_a_topic_made_anew_are_emitted_whatever_the_group_had_committed(
    kafka: KafkaSettings,
) -> None:
    _commit_beyond_the_end(kafka)
    publish(kafka, 200, pins=PINS, seed=8)
    stepped = _Stepped(kafka, MemoryStore(PIN_RECORD), VERSION_A)
    stepped.turn_until(stepped.assigned)
    stepped.turn_until(lambda: stepped.worker._intake.lag(ask=True) == _NO_LAG)
    stepped.worker._finish()
    stepped.crash()
    check(kafka, Oracle().fold(kafka), VERSION_A)
    assert stepped.value("events_total", topic=PIN_CHANGED.name, result="caught_up") == 0


def test_a_checkpoint_of_a_state_topic_that_was_made_anew_covers_nothing(kafka: KafkaSettings) -> None:
    publish(kafka, 200, pins=PINS, seed=9)
    said = [
        StateCheckpointed(
            state_topic=PIN_FEATURES.name,
            partition=number,
            state_offset=50,
            covers={topic: 1_000 for topic in _NO_LAG},
            embedded=[VERSION_A],
            worker="w",
            occurred_at_ms=1,
        )
        for number in range(STATE_CHECKPOINTED.partitions)
    ]
    outlet = Producer(producer_config(kafka))
    for one in said:
        outlet.produce(STATE_CHECKPOINTED.name, encode(one), partition=one.partition)
    assert outlet.flush(10) == 0
    stepped = _Stepped(kafka, MemoryStore(PIN_RECORD), VERSION_A)
    stepped.turn_until(stepped.assigned)
    stepped.turn_until(lambda: stepped.worker._intake.lag(ask=True) == _NO_LAG)
    stepped.worker._finish()
    stepped.crash()
    check(kafka, Oracle().fold(kafka), VERSION_A)


def test_a_partition_of_which_nothing_was_read_yet_counts_as_lag(kafka: KafkaSettings) -> None:
    stepped = _Stepped(kafka, MemoryStore(PIN_RECORD), VERSION_A)
    stepped.turn_until(stepped.assigned)
    publish(kafka, 60, pins=PINS, seed=10)
    events = sum(len(read_all(kafka, topic)) for topic in _NO_LAG)
    assert sum(stepped.worker._intake.lag(ask=True).values()) == events
    stepped.crash()
