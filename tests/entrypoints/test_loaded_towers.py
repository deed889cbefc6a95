import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from entrypoints.loaded_towers import LiveManifests, LiveTowers
from entrypoints.settings import Settings
from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from models.live_towers import write_live_towers
from schemas.codec import decode, encode
from schemas.embeddings import PinEmbedded
from schemas.errors import Refused, RetryableError
from schemas.events import PinChanged
from schemas.topics import PIN_CHANGED, PIN_EMBEDDED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, producer_config
from streams.worker_settings import WorkerSettings
from tests.entrypoints.world import save_tower
from tests.streams.enrichment_oracle import read_all
from tests.streams.running_worker import RunningWorker


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(data_dir=tmp_path)


@pytest.fixture
def kafka() -> Iterator[KafkaSettings]:
    with EmbeddedBroker() as broker:
        yield KafkaSettings(
            bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=1_500, heartbeat_interval_ms=300
        )


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _publish(kafka: KafkaSettings, pins: range) -> None:
    producer = Producer(producer_config(kafka))
    for pin in pins:
        producer.produce(PIN_CHANGED.name, encode(PinChanged(pin_id=pin, occurred_at_ms=5)), key=b"%d" % pin)
    assert producer.flush(10) == 0


def _embedded(kafka: KafkaSettings) -> set[tuple[int, str]]:
    rows = [decode(PinEmbedded, one.value()) for one in read_all(kafka, PIN_EMBEDDED.name)]
    return {(row.pin_id, row.tower_version) for row in rows}


def _flip_a_byte(weights: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


def test_live_is_read_again_but_each_tower_is_loaded_once(settings: Settings) -> None:
    first, second = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    live = LiveTowers(settings)

    write_live_towers(settings.towers_dir, [first.tower_version])
    (loaded,) = live()
    write_live_towers(settings.towers_dir, [first.tower_version, second.tower_version])

    again, new = live()
    assert again is loaded
    assert new.version == second.tower_version


def test_a_candidate_that_cannot_be_loaded_is_left_out_until_it_can(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    serving, candidate = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    write_live_towers(settings.towers_dir, [serving.tower_version, candidate.tower_version])
    weights = settings.towers_dir / candidate.tower_version / "weights.safetensors"
    _flip_a_byte(weights)
    clock = _Clock()
    live = LiveTowers(settings, clock)

    for clock.now in (0.0, 59.0, 61.0):
        assert [tower.version for tower in live()] == [serving.tower_version]
    said = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert len(said) == 1
    assert candidate.tower_version[:12] in said[0].message

    _flip_a_byte(weights)
    clock.now = 100.0
    assert len(live()) == 1  # not looked at again before its minute is over
    clock.now = 122.0
    assert [tower.version for tower in live()] == [serving.tower_version, candidate.tower_version]


def test_a_serving_tower_that_cannot_be_loaded_is_refused(settings: Settings) -> None:
    serving, candidate = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    write_live_towers(settings.towers_dir, [serving.tower_version, candidate.tower_version])
    _flip_a_byte(settings.towers_dir / candidate.tower_version / "weights.safetensors")
    live = LiveTowers(settings)
    assert len(live()) == 1

    write_live_towers(settings.towers_dir, [candidate.tower_version, serving.tower_version])

    with pytest.raises(Refused):
        live()


def test_without_live_nothing_is_given_to_embed_with(settings: Settings) -> None:
    with pytest.raises(RetryableError, match="LIVE"):
        LiveTowers(settings)()


def test_a_worker_embeds_with_the_serving_tower_beside_a_candidate_that_cannot_be_loaded(
    settings: Settings, kafka: KafkaSettings
) -> None:
    serving, candidate = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    write_live_towers(settings.towers_dir, [serving.tower_version, candidate.tower_version])
    _flip_a_byte(settings.towers_dir / candidate.tower_version / "weights.safetensors")
    _publish(kafka, range(20))

    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), LiveTowers(settings))
    running.wait("rows_total", 20, tower="0")
    running.stop()

    assert _embedded(kafka) == {(pin, serving.tower_version) for pin in range(20)}


def test_nothing_is_taken_in_while_live_is_gone_and_everything_when_it_is_back(
    settings: Settings, kafka: KafkaSettings
) -> None:
    version = save_tower(settings.data_dir, seed=1).tower_version
    write_live_towers(settings.towers_dir, [version])
    store, how = (
        MemoryStore(PIN_RECORD),
        WorkerSettings(poll_seconds=0.02, retry_seconds=0.05, backfill="batch"),
    )
    running = RunningWorker(kafka, store, LiveTowers(settings), how)
    _publish(kafka, range(10))
    running.wait("rows_total", 10, tower="0")

    (settings.towers_dir / "LIVE").rename(settings.towers_dir / "AWAY")
    running.wait("reopened_total", 1)
    _publish(kafka, range(10, 30))
    running.stop()
    assert _embedded(kafka) == {(pin, version) for pin in range(10)}
    assert sum(len(records) for records, _ in store.scan()) == 10

    (settings.towers_dir / "AWAY").rename(settings.towers_dir / "LIVE")
    running = RunningWorker(kafka, store, LiveTowers(settings), how)
    running.wait("rows_total", 20, tower="0")
    running.stop()
    assert _embedded(kafka) == {(pin, version) for pin in range(30)}


def test_a_damaged_candidate_is_left_out_for_the_cutter_too(settings: Settings) -> None:
    serving, candidate = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    write_live_towers(settings.towers_dir, [serving.tower_version, candidate.tower_version])
    weights = settings.towers_dir / candidate.tower_version / "weights.safetensors"
    _flip_a_byte(weights)
    clock = _Clock()
    live = LiveManifests(settings, clock)
    assert [one.tower_version for one in live()] == [serving.tower_version]

    _flip_a_byte(weights)
    assert len(live()) == 1, "it is not read again and again"
    clock.now = 60.0
    assert [one.tower_version for one in live()] == [serving.tower_version, candidate.tower_version]


def test_a_damaged_serving_tower_is_refused_to_the_cutter(settings: Settings) -> None:
    serving = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [serving.tower_version])
    _flip_a_byte(settings.towers_dir / serving.tower_version / "weights.safetensors")
    with pytest.raises(Refused):
        LiveManifests(settings)()
