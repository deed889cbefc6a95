"""A rollover whose backfill is the batch embedder's: worker, embedder and cutter on the embedded broker."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from index.snapshots import read_snapshot
from schemas.codec import encode
from schemas.errors import RetryableError
from schemas.events import PinChanged
from schemas.manifests import SnapshotManifest
from schemas.tiers import Tier
from schemas.topics import PIN_CHANGED
from streams.batch_embedder import BatchEmbedder, Embedded, EmbedPlan, EmbedSurroundings
from streams.batch_states import KafkaStates
from streams.cut_policy import EventTimeCut
from streams.cutter import Cutter, CutterSettings, CutterSurroundings
from streams.embedded_broker import EmbeddedBroker
from streams.embedded_topic import KafkaEmbeddedTopic
from streams.kafka import KafkaSettings, consumer_config, producer_config
from streams.live_gate import Waiting
from streams.topic_reader import TopicReader
from streams.tower_output import PinEmbedder
from tests.fakes import FakePinTower
from tests.schemas.examples import VERSION_A, VERSION_B
from tests.streams.embedded_rows_on_a_topic import EPOCH_MS, Letterbox
from tests.streams.running_worker import SETTINGS, RunningWorker
from tests.streams.states_in_memory import tower_manifest

PINS = 120
SERVING, CANDIDATE = FakePinTower(), FakePinTower(version=VERSION_B)
EVERY = Tier(name="realtime")


@pytest.fixture
def kafka() -> Iterator[KafkaSettings]:
    with EmbeddedBroker() as broker:
        yield KafkaSettings(
            bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=1_500, heartbeat_interval_ms=300
        )


def publish(kafka: KafkaSettings, pins: range, price_micros: int) -> None:
    producer = Producer(producer_config(kafka))
    for pin in pins:
        event = PinChanged(pin_id=pin, occurred_at_ms=EPOCH_MS, price_micros=price_micros)
        producer.produce(PIN_CHANGED.name, encode(event), key=b"%d" % pin)
    assert producer.flush(10) == 0


def embed(kafka: KafkaSettings, root: Path, seconds: float) -> Embedded | None:
    waiting = Waiting(seconds, time.monotonic, time.sleep, lambda why: None, lambda: False, 0.1)
    around = EmbedSurroundings(waiting, lambda: EPOCH_MS, lambda status: None)
    plan = EmbedPlan(EVERY, root / "embeddings", root / "snapshots")
    with TopicReader(kafka) as reader:
        return BatchEmbedder(KafkaStates(reader), CANDIDATE, tower_manifest(VERSION_B), plan, around).run()


def cut(kafka: KafkaSettings, root: Path) -> dict[str, SnapshotManifest]:
    """Read all of pin.embedded.v1 and cut; version -> snapshot."""
    consumer = Consumer(consumer_config(kafka, kafka.cutter_group))
    told: list[SnapshotManifest] = []
    live = [tower_manifest(VERSION_A), tower_manifest(VERSION_B)]
    around = CutterSurroundings(lambda: live, lambda: EPOCH_MS, Letterbox(), told.append)
    cutter = Cutter(
        KafkaEmbeddedTopic(consumer), CutterSettings(root / "snapshots", EVERY), EventTimeCut(), around
    )
    cutter.start()
    ends = KafkaEmbeddedTopic(consumer).ends()
    while any(cutter.positions[number] < end for number, end in ends.items()):
        cutter.step()
    cutter.cut()
    consumer.close()
    return {next(iter(one.versions)): one for one in told}


def prices(root: Path, snapshot: SnapshotManifest) -> dict[int, int]:
    fields = read_snapshot(root / "snapshots", snapshot.snapshot_id)[1].attributes
    return dict(zip(fields["pin_id"].tolist(), fields["price_micros"].tolist(), strict=True))


def test_a_candidate_is_as_fresh_as_the_serving_tower_when_it_is_first_cut(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    """User pain 9: the batch job embeds what is there, the workers what comes; nothing falls between them."""
    towers: list[PinEmbedder] = [SERVING]
    settings = replace(SETTINGS, backfill="batch", flush_seconds=0.2)
    publish(kafka, range(PINS), 1_000_000)
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), towers, settings)
    running.wait("rows_total", PINS, tower="0")
    with pytest.raises(RetryableError, match="workers do not embed all of it"):
        embed(kafka, tmp_path, seconds=0.5)

    towers.append(CANDIDATE)
    done: list[Embedded | None] = []
    job = threading.Thread(target=lambda: done.append(embed(kafka, tmp_path, seconds=20)))
    job.start()
    publish(kafka, range(0, PINS, 3), 2_000_000)
    job.join(40)
    publish(kafka, range(0, PINS, 6), 3_000_000)
    running.wait("rows_total", PINS + PINS // 3 + PINS // 6, tower="0")
    running.stop()

    assert done and done[0] is not None and done[0].assembled is not None
    assert done[0].assembled.rows == PINS and not done[0].failed
    snapshots = cut(kafka, tmp_path)
    assert set(snapshots) == {VERSION_A, VERSION_B}
    assert prices(tmp_path, snapshots[VERSION_B]) == prices(tmp_path, snapshots[VERSION_A])
    expected = {
        pin: 3_000_000 if pin % 6 == 0 else 2_000_000 if pin % 3 == 0 else 1_000_000 for pin in range(PINS)
    }
    assert prices(tmp_path, snapshots[VERSION_B]) == expected
    assert running.value("backfill_pins_total", tower="1") == 0


def test_without_the_batch_job_the_candidate_is_not_cut(kafka: KafkaSettings, tmp_path: Path) -> None:
    towers: list[PinEmbedder] = [SERVING]
    publish(kafka, range(PINS), 1_000_000)
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), towers, replace(SETTINGS, backfill="batch"))
    running.wait("rows_total", PINS, tower="0")
    towers.append(CANDIDATE)
    publish(kafka, range(10), 2_000_000)
    running.wait("rows_total", PINS + 10, tower="0")
    running.stop()

    assert set(cut(kafka, tmp_path)) == {VERSION_A}
