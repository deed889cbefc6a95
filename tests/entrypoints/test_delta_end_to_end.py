"""Events in, worker, broker, server: what a change takes to reach `/v1/rank` without a new release."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from features.definitions import registry
from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from models.predictor import PinTower
from schemas.codec import encode
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED, PIN_EMBEDDED, PIN_FEATURES, STATE_CHECKPOINTED
from serving.app import create_app
from serving.clock import system_clock
from serving.delta_reader import DeltaPolicy
from serving.parts import ServingConfig, build_parts
from serving.pipeline import FunnelPolicy
from serving.ranking_log import recount_mixed
from serving.telemetry import ServingTelemetry
from streams.embedded_broker import EmbeddedBroker
from streams.fresh_rows import KafkaFreshRows
from streams.kafka import KafkaSettings, producer_config
from tests.schemas.examples import pin_changed, pin_embedded
from tests.serving.test_end_to_end import PINS, save_release, save_tower
from tests.streams.running_worker import RunningWorker

WITHIN_SECONDS = 20.0
TOPICS = [
    (topic.name, 2) for topic in (PIN_CHANGED, PIN_AGGREGATED, PIN_EMBEDDED, PIN_FEATURES, STATE_CHECKPOINTED)
]


class World:
    """A worker and a server that follows it. The release holds Pins 1 to 300 and is never replaced."""

    def __init__(self, data: Path, bootstrap_servers: str) -> None:
        self.data, self.kafka = data, KafkaSettings(bootstrap_servers=bootstrap_servers)
        self.tower, self.other = save_tower(data, 1), save_tower(data, 2)
        self.release_id = save_release(data, self.tower)
        self.parts = build_parts(self._config())
        self.parts.releases.publish(self.release_id, actor="test", reason="test")
        towers = [
            PinTower.load(data / "towers", one.tower_version, registry()) for one in (self.other, self.tower)
        ]
        self.worker = RunningWorker(self.kafka, MemoryStore(PIN_RECORD), towers)
        self._producer = Producer(producer_config(self.kafka))
        self._runner = asyncio.Runner()
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(self.parts)), base_url="http://server"
        )
        self.parts.start()
        self.until(lambda: self.parts.live() is not None, "a release to be served")

    def _config(self) -> ServingConfig:
        return ServingConfig(
            data=self.data,
            registry=registry(),
            clock=system_clock(),
            telemetry=ServingTelemetry(CollectorRegistry()),
            # A Pin of an untrained tower may stand anywhere: what L1 keeps is not what is tested.
            policy=FunnelPolicy(keep=1_000),
            poll_seconds=0.05,
            fresh=lambda: KafkaFreshRows(self.kafka),
            delta=DeltaPolicy(refresh_seconds=0.05, check_seconds=0.2),
        )

    def change(self, pin_id: int, **fields: Any) -> None:
        """A complete change of a Pin: the worker knows nothing of it yet."""
        whole: dict[str, Any] = {
            "pin_id": pin_id,
            "status": "active",
            "title": f"Fresh Pin {pin_id}",
            "advertiser_id": 1_000 + pin_id,
            "bid_micros": 10_000,
            "daily_budget_micros": 10**9,
            "occurred_at_ms": 1_699_900_000_000,
        }
        event = pin_changed(**(whole | fields))
        self._producer.produce(PIN_CHANGED.name, value=encode(event), key=str(pin_id).encode())
        self._producer.flush()

    def rank(self) -> dict[str, Any]:
        response = self._runner.run(self._client.post("/v1/rank", json={"user_id": 1, "slots": 100}))
        assert response.status_code == 200
        answer: dict[str, Any] = response.json()
        return answer

    def bids(self) -> dict[int, int]:
        return {ad["pin_id"]: ad["bid_micros"] for ad in self.rank()["ads"]}

    def until(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN_SECONDS
        while not happened():
            assert time.monotonic() < deadline, f"{what}; status: {self.parts.status().delta}"
            time.sleep(0.02)

    def close(self) -> None:
        self.worker.stop()
        del self._producer
        self._runner.run(self._client.aclose())
        self._runner.close()
        self.parts.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with EmbeddedBroker(TOPICS) as broker:
        world = World(tmp_path_factory.mktemp("delta"), broker.bootstrap_servers)
        yield world
        world.close()


def test_a_bid_change_is_in_the_answer_without_a_new_release(world: World) -> None:
    """Invariant 7, all the way from the event."""
    world.change(7, bid_micros=900_000)
    world.until(lambda: world.bids().get(7) == 900_000, "the new bid")
    answer = world.rank()
    assert answer["release_id"] == world.release_id
    assert answer["version_mix"] == {world.tower.tower_version: sum(answer["version_mix"].values())}
    assert answer["coverage"]["fresh_pins"] >= 1


@pytest.mark.parametrize(
    ("pin_id", "ends"),
    [(11, {"status": "paused"}), (12, {"status": "deleted"}), (13, {"daily_budget_micros": 800_000})],
)
def test_a_pause_a_delete_and_a_budget_cut_take_an_ad_out(
    world: World, pin_id: int, ends: dict[str, Any]
) -> None:
    world.change(pin_id, bid_micros=900_000)
    world.until(lambda: pin_id in world.bids(), "the ad")
    world.change(pin_id, **({"bid_micros": 900_000} | ends))
    world.until(lambda: pin_id not in world.bids(), "the ad to be gone")


def test_a_new_pin_is_in_the_answer_without_a_new_release(world: World) -> None:
    """Pain 10: what came after the last full load is servable."""
    world.change(PINS + 50, bid_micros=950_000)
    world.until(lambda: PINS + 50 in world.bids(), "the new Pin")
    ad = next(ad for ad in world.rank()["ads"] if ad["pin_id"] == PINS + 50)
    assert ad["title"] == f"Fresh Pin {PINS + 50}"


def test_messages_that_are_no_rows_are_counted_and_passed_over(world: World) -> None:
    world._producer.produce(PIN_EMBEDDED.name, value=b"{", key=b"no row")
    world._producer.produce(
        PIN_EMBEDDED.name, value=encode(pin_embedded(tower_version=world.tower.tower_version)), key=b"7:aa"
    )
    world._producer.flush()
    world.change(21, bid_micros=970_000)
    world.until(lambda: world.bids().get(21) == 970_000, "the change behind them")

    def unreadable() -> int:
        return int((world.parts.status().delta or {})["unreadable"])

    world.until(lambda: unreadable() == 2, "the bad rows to be counted")


def test_the_log_shows_fresh_ads_and_no_mixed_pair(world: World) -> None:
    """The worker embeds with two towers all the time, the wrong one first."""
    world.change(31, bid_micros=990_000)
    world.until(lambda: world.bids().get(31) == 990_000, "the fresh ad")
    world.parts.recorder.ranking_log.close()
    assert recount_mixed(world.data / "logs").mixed == 0
