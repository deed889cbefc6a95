"""What falls between two owners of a partition: silent events, towers that come and go, a worker that slept."""

import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry

from features.pin_state import PIN_RECORD
from features.store import MemoryStore, RecordStore
from schemas.codec import decode
from schemas.embeddings import PinEmbedded
from schemas.states import StateCheckpointed
from schemas.topics import PIN_EMBEDDED, STATE_CHECKPOINTED
from streams.embedded_broker import EmbeddedBroker
from streams.intake import Intake
from streams.kafka import KafkaSettings
from streams.state_flush import StateFlush
from streams.telemetry import EnrichmentTelemetry
from streams.worker import EnrichmentWorker
from streams.worker_settings import WorkerSettings
from tests.fakes import FakePinTower
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

    after = _Stepped(kafka, MemoryStore(PIN_RECORD), VERSION_A, VERSION_B, settings=NO_FLUSH)
    after.turn_until(lambda: after.assigned() and after.worker._intake.lag(ask=True) == _NO_LAG)
    after.turn_until(lambda: after.value("backfill_complete", tower="1") == 1)
    after.worker._finish()
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
