import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from features.pin_state import PIN_RECORD, Records
from features.store import MemoryStore
from features.tier_slices import in_tier
from schemas.codec import decode, encode
from schemas.embeddings import PinEmbedded
from schemas.errors import Refused
from schemas.events import PinChanged
from schemas.skew import EmbeddingsCounted
from schemas.states import StateCheckpointed
from schemas.tiers import Tier, Tiers
from schemas.topics import (
    EMBEDDINGS_COUNTED,
    PIN_AGGREGATED,
    PIN_CHANGED,
    PIN_EMBEDDED,
    PIN_FEATURES,
    STATE_CHECKPOINTED,
)
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, consumer_config, producer_config
from streams.outlet import DeliveryFailed
from streams.tower_output import PinEmbedder
from streams.worker_settings import WorkerSettings
from tests.fakes import FakeEmbedded, FakePinTower
from tests.schemas.examples import VERSION_A, VERSION_B
from tests.streams.enrichment_oracle import Oracle, check, publish, read_all
from tests.streams.running_worker import DEADLINE_SECONDS, RunningWorker


@pytest.fixture
def kafka() -> Iterator[KafkaSettings]:
    with EmbeddedBroker() as broker:
        yield KafkaSettings(
            bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=1_500, heartbeat_interval_ms=300
        )


def _publish(kafka: KafkaSettings, *events: PinChanged) -> None:
    producer = Producer(producer_config(kafka))
    for event in events:
        producer.produce(PIN_CHANGED.name, encode(event), key=b"%d" % event.pin_id)
    assert producer.flush(10) == 0


def _committed(kafka: KafkaSettings) -> int:
    consumer = Consumer(consumer_config(kafka, kafka.enrichment_group))
    wanted = [TopicPartition(PIN_CHANGED.name, number) for number in range(PIN_CHANGED.partitions)]
    total = sum(max(0, one.offset) for one in consumer.committed(wanted, timeout=10))
    consumer.close()
    return total


def _rows(kafka: KafkaSettings) -> list[PinEmbedded]:
    return [decode(PinEmbedded, message.value()) for message in read_all(kafka, PIN_EMBEDDED.name)]


def test_events_of_both_sources_become_rows_letters_and_commits(kafka: KafkaSettings) -> None:
    publish(kafka, 2_000, pins=100, seed=7)
    oracle = Oracle().fold(kafka)
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), [FakePinTower()])
    for topic in (PIN_CHANGED.name, PIN_AGGREGATED.name):
        bad = sum(place[0] == topic for place in oracle.poison)
        good = len(read_all(kafka, topic)) - bad
        running.wait("events_total", bad, topic=topic, result="dead_lettered")
        running.wait("events_total", good, topic=topic, result="applied")
    running.stop()
    counted = check(kafka, oracle, VERSION_A)
    assert counted["letters"] == counted["poison"]
    assert running.value("rows_total", tower="0") == counted["rows"]


def test_a_row_lies_on_the_partition_that_its_event_came_from(kafka: KafkaSettings) -> None:
    _publish(kafka, *(PinChanged(pin_id=pin, occurred_at_ms=5) for pin in range(50)))
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), [FakePinTower()])
    running.wait("rows_total", 50, tower="0")
    running.stop()
    sources = {one.key(): one.partition() for one in read_all(kafka, PIN_CHANGED.name)}
    rows = {(one.key() or b"").split(b":")[0]: one.partition() for one in read_all(kafka, PIN_EMBEDDED.name)}
    assert rows == sources


def test_a_dead_letter_keeps_its_bytes_and_its_headers(kafka: KafkaSettings) -> None:
    producer = Producer(producer_config(kafka))
    producer.produce(PIN_CHANGED.name, b"\x00{", key=b"\xff", headers=[("ce_type", b"pin.changed.v9")])
    producer.flush(10)
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), [FakePinTower()])
    running.wait("dead_letters_total", 1, topic="pin.changed.v1", reason="unknown_version")
    running.stop()
    (letter,) = read_all(kafka, PIN_CHANGED.dlq)
    assert (letter.key(), letter.value()) == (b"\xff", b"\x00{")
    headers = dict(letter.headers() or [])
    assert headers["x-dlq-reason"] == b"unknown_version"
    assert headers["ce_type"] == b"pin.changed.v9"


def test_a_new_live_tower_gets_a_row_of_every_stored_pin(kafka: KafkaSettings, tmp_path: Path) -> None:
    _publish(kafka, *(PinChanged(pin_id=pin, occurred_at_ms=5, price_micros=pin) for pin in range(40)))
    towers: list[PinEmbedder] = [FakePinTower()]
    path = tmp_path / "status.json"
    settings = WorkerSettings(
        poll_seconds=0.02, backfill_chunk_pins=7, status_path=path, status_interval_seconds=0.05
    )
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), towers, settings)
    running.wait("rows_total", 40, tower="0")
    towers.append(FakePinTower(version=VERSION_B))
    running.wait("backfill_complete", 1, tower="1")
    running.stop()
    rows = [row for row in _rows(kafka) if row.tower_version == VERSION_B]
    assert sorted((row.pin_id, row.price_micros) for row in rows) == [(pin, pin) for pin in range(40)]
    assert len(_rows(kafka)) == 80
    status = json.loads(path.read_text())
    assert status["backfills"][VERSION_B] == {"pins": 40, "done": True, "failed": 0}
    assert (status["events"], status["lag_events"], status["partitions"]) == (40, 0, 64)
    assert status["live"] == [VERSION_A, VERSION_B]
    costs = [
        {name: value for name, value in status["towers"][version].items() if name != "embed_cpu_seconds"}
        for version in (VERSION_A, VERSION_B)
    ]
    sizes = [_bytes(kafka, version) for version in (VERSION_A, VERSION_B)]
    assert costs == [
        {"rows": 40, "row_bytes": sizes[0], "backfill_rows": 0},
        {"rows": 40, "row_bytes": sizes[1], "backfill_rows": 40},
    ]
    assert all(status["towers"][version]["embed_cpu_seconds"] > 0 for version in (VERSION_A, VERSION_B))


@pytest.mark.parametrize("backfill", ["worker", "batch"])
def test_a_candidate_that_embeds_nothing_stops_neither_the_serving_tower_nor_the_worker(
    kafka: KafkaSettings, backfill: Literal["worker", "batch"], caplog: pytest.LogCaptureFixture
) -> None:
    publish(kafka, 1_000, pins=100, seed=7)
    towers: list[PinEmbedder] = [FakePinTower()]
    settings = WorkerSettings(
        poll_seconds=0.02, backfill=backfill, flush_seconds=0.1, status_interval_seconds=0.05
    )
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), towers, settings)
    running.wait("rows_total", 100, tower="0")
    towers.append(FakePinTower(version=VERSION_B, poison=frozenset(range(100))))
    publish(kafka, 1_000, pins=100, seed=8)
    running.wait("left_out_pins_total", 100, tower="1")
    oracle = Oracle().fold(kafka)
    good = len(read_all(kafka, PIN_CHANGED.name)) - sum(one[0] == PIN_CHANGED.name for one in oracle.poison)
    running.wait("events_total", good, topic=PIN_CHANGED.name, result="applied")
    running.stop()
    counted = check(kafka, oracle, VERSION_A)
    assert counted["letters"] == counted["poison"]
    assert {row.tower_version for row in _rows(kafka)} == {VERSION_A}
    assert running.value("backfill_complete", tower="1") == 0
    # An empty partition is complete; the last word of each that has Pins is that it is not.
    checkpoints = [decode(StateCheckpointed, one.value()) for one in read_all(kafka, STATE_CHECKPOINTED.name)]
    embedded = {one.partition: one.embedded for one in checkpoints}
    with_pins = {one.partition() or 0 for one in read_all(kafka, PIN_EMBEDDED.name)}
    assert VERSION_B not in {version for number in with_pins for version in embedded[number]}
    assert f"tower {VERSION_B[:12]} could not embed" in caplog.text


def test_another_serving_tower_is_told_to_the_next_owner_at_once(kafka: KafkaSettings) -> None:
    """What is folded silently is asked of the serving tower of then: no long time may lie between them."""
    towers: list[PinEmbedder] = [FakePinTower(), FakePinTower(version=VERSION_B)]
    settings = WorkerSettings(poll_seconds=0.02, backfill="batch", flush_seconds=1_000.0)
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), towers, settings)
    for first in (0, 40):
        events = (PinChanged(pin_id=pin, occurred_at_ms=5) for pin in range(first, first + 40))
        _publish(kafka, *events)
        running.wait("rows_total", first + 40, tower="1")
    towers[:] = reversed(towers)
    running.wait("flushed_rows_total", 80)
    running.stop()


def _bytes(kafka: KafkaSettings, version: str) -> int:
    """Of the keys and values of a tower's rows."""
    messages = [(one.key() or b"", one.value() or b"") for one in read_all(kafka, PIN_EMBEDDED.name)]
    return sum(
        len(key) + len(value)
        for key, value in messages
        if decode(PinEmbedded, value).tower_version == version
    )


def _newest(kafka: KafkaSettings) -> dict[int, StateCheckpointed]:
    said = [decode(StateCheckpointed, one.value()) for one in read_all(kafka, STATE_CHECKPOINTED.name)]
    return {one.partition: one for one in said}


def test_a_tower_that_becomes_live_is_named_at_once_and_one_that_goes_is_taken_back_before_the_next_row(
    kafka: KafkaSettings,
) -> None:
    _publish(kafka, *(PinChanged(pin_id=pin, occurred_at_ms=5) for pin in range(40)))
    towers: list[PinEmbedder] = [FakePinTower()]
    settings = WorkerSettings(
        poll_seconds=0.02, flush_seconds=3_600.0, backfill="batch", status_interval_seconds=0.05
    )
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), towers, settings)
    running.wait("rows_total", 40, tower="0")
    towers.append(FakePinTower(version=VERSION_B))
    _until(lambda: {tuple(one.live) for one in _newest(kafka).values()} == {(VERSION_A, VERSION_B)})
    assert len(_newest(kafka)) == PIN_CHANGED.partitions
    assert sum(sum(one.covers.values()) for one in _newest(kafka).values()) == 40
    assert len(read_all(kafka, PIN_FEATURES.name)) == 40

    towers.pop()
    _publish(kafka, PinChanged(pin_id=1, occurred_at_ms=6, price_micros=9))
    running.wait("rows_total", 41, tower="0")
    assert {tuple(one.live) for one in _newest(kafka).values()} == {(VERSION_A,)}
    running.stop()
    # The job does the backfill: no row of B, and nobody is told that one has all Pins.
    assert {row.tower_version for row in _rows(kafka)} == {VERSION_A}
    assert {tuple(one.embedded) for one in _newest(kafka).values()} == {()}


def _until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not so():
        assert time.monotonic() < deadline


def test_pins_of_a_batch_tier_get_state_rows_and_no_embedded_ones(kafka: KafkaSettings) -> None:
    hot, warm = Tier(name="hot", end_bucket=30), Tier(name="warm", first_bucket=30, end_bucket=60)
    slow = Tier(name="slow", policy="batch", first_bucket=60)
    _publish(kafka, *(PinChanged(pin_id=pin, occurred_at_ms=5) for pin in range(200)))
    towers: list[PinEmbedder] = [FakePinTower()]
    settings = WorkerSettings(
        tiers=Tiers(tiers=[hot, warm, slow]), poll_seconds=0.02, status_interval_seconds=0.05
    )
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), towers, settings)
    running.wait("events_total", 200, topic=PIN_CHANGED.name, result="applied")
    towers.append(FakePinTower(version=VERSION_B))
    running.wait("backfill_complete", 1, tower="1")
    running.stop()
    pins = np.arange(200)
    mine = {tier.name: set(pins[in_tier(pins, tier)].tolist()) for tier in (hot, warm, slow)}
    embedded = mine["hot"] | mine["warm"]
    for version in (VERSION_A, VERSION_B):
        assert {row.pin_id for row in _rows(kafka) if row.tower_version == version} == embedded
    states = {json.loads(one.value() or b"")["pin_id"] for one in read_all(kafka, PIN_FEATURES.name)}
    assert states == set(range(200))
    counted = [decode(EmbeddingsCounted, one.value()) for one in read_all(kafka, EMBEDDINGS_COUNTED.name)]
    for tier in ("hot", "warm"):
        its = [one for one in counted if one.tier == tier]
        assert sum(one.pins for one in its) == len(mine[tier])
        assert sum(one.rows[VERSION_A] for one in its) == len(mine[tier])
    assert {one.tier for one in counted} == {"hot", "warm"}


def test_two_workers_share_the_partitions_and_lose_nothing_when_one_leaves(kafka: KafkaSettings) -> None:
    first = RunningWorker(kafka, MemoryStore(PIN_RECORD), [FakePinTower()])
    first.wait("partitions", 64)
    second = RunningWorker(kafka, MemoryStore(PIN_RECORD), [FakePinTower()])
    second.wait("partitions", 32)
    publish(kafka, 1_000, pins=60, seed=8)
    for running in (first, second):
        running.wait("events_total", 1, topic="pin.changed.v1", result="applied")
    second.stop()
    first.wait("partitions", 64)
    publish(kafka, 500, pins=60, seed=9)
    oracle = Oracle().fold(kafka)
    total = sum(state["changed_offset"] >= 0 for state in oracle.pins.values())
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline and _committed(kafka) < len(read_all(kafka, PIN_CHANGED.name)):
        pass
    first.stop()
    assert total > 0
    check(kafka, oracle, VERSION_A)


def test_a_row_that_the_broker_does_not_take_stops_the_worker_before_the_commit(kafka: KafkaSettings) -> None:
    _publish(kafka, PinChanged(pin_id=1, occurred_at_ms=5))
    running = RunningWorker(kafka, MemoryStore(PIN_RECORD), [_Huge()])
    with pytest.raises(DeliveryFailed):
        running.failed()
    assert _committed(kafka) == 0


class _Huge(FakePinTower):
    """Vectors so long that a row is larger than a message may be."""

    def embed(self, pins: Records, /) -> FakeEmbedded:
        return FakeEmbedded(np.ones((len(pins), 600_000), np.float32), np.ones(len(pins), np.int64))


def test_the_state_of_another_cluster_is_refused_at_start(kafka: KafkaSettings) -> None:
    store = MemoryStore(PIN_RECORD)
    store.put_many(np.empty(0, np.int64), np.empty(0, PIN_RECORD), [], {"kafka_cluster": b"another"})
    with pytest.raises(Refused, match="state_of_another_cluster"):
        RunningWorker(kafka, store, [FakePinTower()])
