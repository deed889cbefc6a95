"""`skewless enrich` as a process, and the worker that the composition root makes for it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from entrypoints import clocks, wiring
from entrypoints.settings import Settings
from features.tier_slices import in_tier
from models.live_towers import write_live_towers
from schemas.codec import decode, encode
from schemas.embeddings import PinEmbedded
from schemas.events import PinChanged
from schemas.states import StateCheckpointed
from schemas.topics import PIN_CHANGED, PIN_EMBEDDED, PIN_FEATURES, STATE_CHECKPOINTED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, producer_config
from tests.entrypoints.world import save_tower
from tests.streams.enrichment_oracle import read_all

DEADLINE_SECONDS = 60.0


def _serving_tower(data: Path) -> str:
    version = save_tower(data, seed=1).tower_version
    write_live_towers(data / "towers", [version])
    return version


def test_a_worker_started_before_its_broker_says_so_in_one_line_and_ends_in_good_order(
    tmp_path: Path,
) -> None:
    _serving_tower(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        environment = os.environ | {
            "SKEWLESS_DATA_DIR": str(tmp_path),
            "SKEWLESS_KAFKA_BOOTSTRAP_SERVERS": address,
        }
        worker = subprocess.Popen(
            [sys.executable, "-m", "entrypoints.cli", "enrich"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert worker.stderr is not None
            assert f"waiting for Kafka at {address}" in worker.stderr.readline()
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(DEADLINE_SECONDS) == 0
            assert "rdkafka" not in worker.stderr.read()
        finally:
            worker.kill()
            worker.communicate()


@pytest.mark.parametrize("backfill", ["worker", "batch"])
def test_tiers_and_the_backfill_setting_reach_the_worker(tmp_path: Path, backfill: str) -> None:
    version = _serving_tower(tmp_path)
    slices = [
        {"name": "hot", "policy": "realtime", "first_bucket": 0, "end_bucket": 40},
        {"name": "slow", "policy": "batch", "first_bucket": 40, "end_bucket": 100},
    ]
    (tmp_path / "tiers.json").write_text(json.dumps({"tiers": slices}))
    pins = np.arange(100)
    with EmbeddedBroker() as broker:
        settings = Settings.load(
            data_dir=tmp_path,
            tier="hot",
            backfill=backfill,
            kafka_bootstrap_servers=broker.bootstrap_servers,
            state_flush_seconds=0.1,
        )
        kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        producer = Producer(producer_config(kafka))
        for pin in pins.tolist():
            producer.produce(
                PIN_CHANGED.name, encode(PinChanged(pin_id=pin, occurred_at_ms=5)), key=b"%d" % pin
            )
        assert producer.flush(10) == 0
        deadline = time.monotonic() + DEADLINE_SECONDS
        with wiring.enrichment_worker(settings, 0, CollectorRegistry()) as worker:
            assert worker._clock is clocks.since_boot_seconds
            worker.run(lambda: time.monotonic() > deadline or _all_covered(kafka, len(pins)))
        rows = [decode(PinEmbedded, one.value()) for one in read_all(kafka, PIN_EMBEDDED.name)]
        said = [decode(StateCheckpointed, one.value()) for one in read_all(kafka, STATE_CHECKPOINTED.name)]
        states = {int(one.key() or b"") for one in read_all(kafka, PIN_FEATURES.name)}
    hot = settings.tiers().named("hot")
    assert {row.pin_id for row in rows} == set(pins[in_tier(pins, hot)].tolist())
    assert states == set(range(100))
    newest = {one.partition: one for one in said}
    assert {tuple(one.live) for one in newest.values()} == {(version,)}
    complete = {tuple(one.embedded) for one in newest.values()}
    assert complete == ({(version,)} if backfill == "worker" else {()})


def _all_covered(kafka: KafkaSettings, events: int) -> bool:
    said = [decode(StateCheckpointed, one.value()) for one in read_all(kafka, STATE_CHECKPOINTED.name)]
    newest = {one.partition: one for one in said}
    return sum(sum(one.covers.values()) for one in newest.values()) == events


def test_the_worker_goes_by_a_clock_that_counts_suspended_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 7_200.0}.__getitem__)
    assert clocks.since_boot_seconds() == 7_200.0
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    assert clocks.since_boot_seconds() == 5.0
