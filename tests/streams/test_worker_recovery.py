"""What a worker makes good again: a lost disk, a partition of another owner, a broker that goes away."""

import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry

from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from schemas.codec import decode
from schemas.embeddings import PinEmbedded
from schemas.skew import EmbeddingsCounted
from schemas.states import StateCheckpointed
from schemas.topics import EMBEDDINGS_COUNTED, PIN_EMBEDDED, PIN_FEATURES, STATE_CHECKPOINTED
from streams.embedded_broker import EmbeddedBroker
from streams.intake import Intake
from streams.kafka import KafkaSettings
from streams.state_flush import StateFlush
from streams.telemetry import EnrichmentTelemetry
from streams.worker import EnrichmentWorker
from streams.worker_settings import WorkerSettings
from tests.fakes import FakePinTower, FullPinTower
from tests.schemas.examples import VERSION_A
from tests.streams.enrichment_oracle import Oracle, check, publish, read_all
from tests.streams.running_worker import SETTINGS, RunningWorker

TOWER = FakePinTower()
PINS = 100


@pytest.fixture
def kafka() -> Iterator[KafkaSettings]:
    with EmbeddedBroker() as broker:
        yield KafkaSettings(
            bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=2_000, heartbeat_interval_ms=300
        )


class _Jumpy:
    """A monotonic clock that can be put forward, as it is for a process that was stopped."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class _Stepped:
    """A worker that is driven turn by turn."""

    def __init__(self, kafka: KafkaSettings, store: MemoryStore, settings: WorkerSettings = SETTINGS) -> None:
        self.registry, self.clock = CollectorRegistry(), _Jumpy()
        self.on_towers: Callable[[], None] = lambda: None
        self.worker = EnrichmentWorker(
            kafka, settings, store, self._towers, EnrichmentTelemetry(self.registry), self.clock
        )

    def _towers(self) -> list[FakePinTower]:
        self.on_towers()
        return [TOWER]

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"skewless_enrichment_{name}", labels) or 0.0

    def turn_until(self, name: str, at_least: float, **labels: str) -> None:
        deadline = time.monotonic() + 30
        while self.value(name, **labels) < at_least:
            assert time.monotonic() < deadline, (name, self.value(name, **labels))
            self.worker.turn()

    def crash(self) -> None:
        """The connections end; nothing is flushed or committed any more."""
        self.worker._discarding = True
        self.worker.stop()


def _count(kafka: KafkaSettings, topic: str) -> int:
    return len(read_all(kafka, topic))


def _all_states(store: MemoryStore) -> bytes:
    return b"".join(records.tobytes() + b"|".join(tails) for records, tails in store.scan())


def _applied(running: RunningWorker | _Stepped) -> float:
    topics = ("pin.changed.v1", "pin.aggregated.v1")
    return sum(running.value("events_total", topic=topic, result="applied") for topic in topics)


def _run_to_the_end(
    kafka: KafkaSettings, store: MemoryStore, at_least: int | None = None, tower: FakePinTower = TOWER
) -> None:
    """Until as many events have been counted as are on the sources (or `at_least`)."""
    running, total = RunningWorker(kafka, store, [tower]), at_least or _events(kafka)
    topics = ("pin.changed.v1", "pin.aggregated.v1")
    results = ("applied", "dead_lettered", "caught_up", "redelivered")
    deadline = time.monotonic() + 30
    while (
        sum(running.value("events_total", topic=topic, result=one) for topic in topics for one in results)
        < total
    ):
        assert time.monotonic() < deadline
    running.stop()


def _events(kafka: KafkaSettings) -> int:
    return sum(_count(kafka, topic) for topic in ("pin.changed.v1", "pin.aggregated.v1"))


def test_a_lost_disk_is_restored_from_the_compacted_topic_without_reading_the_sources_again(
    kafka: KafkaSettings,
) -> None:
    publish(kafka, 1_500, pins=PINS, seed=1)
    before = MemoryStore(PIN_RECORD)
    _run_to_the_end(kafka, before)
    rows = _count(kafka, PIN_EMBEDDED.name)

    after = MemoryStore(PIN_RECORD)
    restarted = RunningWorker(kafka, after, [TOWER])
    restarted.wait("restored_rows_total", PINS)
    restarted.wait("partitions", 64)
    restarted.stop()

    assert _all_states(after) == _all_states(before)
    assert _applied(restarted) == 0
    assert _count(kafka, PIN_EMBEDDED.name) == rows  # and nobody embeds it all again

    publish(kafka, 300, pins=PINS, seed=2)
    _run_to_the_end(kafka, after, at_least=300)
    check(kafka, Oracle().fold(kafka), VERSION_A)


def test_what_was_not_flushed_before_a_crash_is_read_again_and_not_emitted_again(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StateFlush, "hasten", lambda self: None)
    publish(kafka, 600, pins=PINS, seed=3)
    settings = WorkerSettings(poll_seconds=0.02, flush_seconds=3600.0, status_interval_seconds=0.05)
    crashed = _Stepped(kafka, before := MemoryStore(PIN_RECORD), settings)
    crashed.turn_until("rows_total", PINS, tower="0")
    for _ in range(40):
        crashed.worker.turn()
    crashed.worker._settle(wait_for_commit=True)
    rows = _count(kafka, PIN_EMBEDDED.name)
    crashed.crash()
    assert _count(kafka, PIN_FEATURES.name) == 0

    after = MemoryStore(PIN_RECORD)
    taken_over = _Stepped(kafka, after, settings)
    taken_over.turn_until("events_total", 400, topic="pin.changed.v1", result="caught_up")
    taken_over.turn_until("events_total", 50, topic="pin.aggregated.v1", result="caught_up")
    for _ in range(40):
        taken_over.worker.turn()
    assert _all_states(after) == _all_states(before)
    assert _count(kafka, PIN_EMBEDDED.name) - rows <= PINS  # the backfill alone, whose end nobody was told
    taken_over.worker._finish()
    assert _count(kafka, PIN_FEATURES.name) == PINS
    taken_over.crash()


def test_a_checkpoint_says_what_is_covered_and_which_towers_are_complete(kafka: KafkaSettings) -> None:
    publish(kafka, 400, pins=PINS, seed=4)
    _run_to_the_end(kafka, MemoryStore(PIN_RECORD))
    newest = {
        message.partition(): decode(StateCheckpointed, message.value())
        for message in read_all(kafka, STATE_CHECKPOINTED.name)
    }
    covered = sum(offset for one in newest.values() for offset in one.covers.values())
    assert covered == _events(kafka)
    assert {tuple(one.embedded) for one in newest.values()} == {(VERSION_A,)}
    assert sum(one.state_offset for one in newest.values()) == _count(kafka, PIN_FEATURES.name)


def test_a_worker_that_was_away_asks_the_group_and_goes_on_when_it_is_still_a_member(
    kafka: KafkaSettings,
) -> None:
    publish(kafka, 200, pins=PINS, seed=5)
    stepped = _Stepped(kafka, MemoryStore(PIN_RECORD))
    stepped.turn_until("partitions", 64)
    stepped.on_towers = lambda: setattr(stepped.clock, "ahead", stepped.clock.ahead + 4.0)
    stepped.turn_until("rows_total", 1, tower="0")
    assert stepped.value("reopened_total") == 0
    stepped.crash()


def test_a_worker_that_was_away_and_is_no_longer_a_member_produces_nothing(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = _Stepped(kafka, MemoryStore(PIN_RECORD))
    stepped.turn_until("partitions", 64)
    publish(kafka, 200, pins=PINS, seed=6)
    monkeypatch.setattr(Intake, "still_ours", lambda self: False)
    stepped.on_towers = lambda: setattr(stepped.clock, "ahead", stepped.clock.ahead + 4.0)
    stepped.turn_until("reopened_total", 1)
    assert _count(kafka, PIN_EMBEDDED.name) == 0

    monkeypatch.undo()
    stepped.on_towers = lambda: None
    stepped.turn_until("rows_total", PINS / 2, tower="0")
    stepped.crash()


def test_a_broker_that_goes_away_is_waited_for() -> None:
    broker = EmbeddedBroker()
    kafka = KafkaSettings(
        bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=1_500, heartbeat_interval_ms=300
    )
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), [TOWER])
    running.wait("partitions", 64)
    publish(kafka, 50, pins=PINS, seed=7)
    broker.close()
    running.wait("reopened_total", 1)
    running.stop()  # in good order: what it had is not committed, and nobody waits for ever


def test_what_was_embedded_is_counted_by_tower_version(kafka: KafkaSettings) -> None:
    publish(kafka, 300, pins=PINS, seed=8)
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), [TOWER])
    running.wait("rows_total", PINS * 0.8, tower="0")
    deadline = time.monotonic() + 30
    counted: list[EmbeddingsCounted] = []
    while not counted and time.monotonic() < deadline:
        counted = [decode(EmbeddingsCounted, one.value()) for one in read_all(kafka, EMBEDDINGS_COUNTED.name)]
    running.stop()
    assert {tuple(one.rows) for one in counted} == {(VERSION_A,)}
    assert all(one.pins == one.rows[VERSION_A] for one in counted)
    rows = [decode(PinEmbedded, one.value()) for one in read_all(kafka, PIN_EMBEDDED.name)]
    assert sum(one.pins for one in counted) <= len(rows)


def test_a_device_without_memory_is_waited_for_and_its_batch_embedded_after_all(kafka: KafkaSettings) -> None:
    publish(kafka, 200, pins=PINS, seed=8)
    tower = FullPinTower(times=[2])
    _run_to_the_end(kafka, MemoryStore(PIN_RECORD), tower=tower)
    assert tower.times == [0]
    check(kafka, Oracle().fold(kafka), VERSION_A)  # every Pin has its row, and only poison has a letter
