"""Real towers, real releases, the real watcher and the HTTP interface, in one process."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from benchmarks.fixtures import cut
from features.definitions import registry
from features.pin_state import STATUS_CODES, empty_records
from index.builder import build_release
from index.releases import ReleaseStore
from models.checkpoint import CheckpointNotes, save_checkpoint
from models.towers import TowerConfig, fresh_towers
from schemas.manifests import TowerManifest
from serving.app import create_app
from serving.parts import ServingConfig, ServingParts, build_parts
from serving.ranking_log import recount_mixed

from .fakes import NOON_MS, FakeClock

PINS = 300
HOUR_MS = NOON_MS - 3_600_000


def save_tower(data: Path, seed: int) -> TowerManifest:
    model = fresh_towers(registry(), TowerConfig(dimension=16, hidden=8), seed)
    notes = CheckpointNotes(registry().content_hash, HOUR_MS - 1, HOUR_MS, seed)
    return save_checkpoint(data / "towers", model, notes)


def save_release(data: Path, tower: TowerManifest) -> str:
    pins = empty_records(np.arange(1, PINS + 1))
    pins["advertiser_id"] = np.arange(PINS) % 40 + 1
    pins["bid_micros"], pins["daily_budget_micros"] = 10_000, 10**9
    pins["status"] = STATUS_CODES["active"]
    pins["ingested_at_ms"] = HOUR_MS - np.arange(PINS)
    titles = pa.array([f"Pin {pin}" for pin in range(1, PINS + 1)], pa.string())
    snapshot = cut(data, tower, pins, titles, HOUR_MS)
    store = ReleaseStore(data / "releases")
    return build_release(
        store,
        data / "snapshots",
        snapshot.snapshot_id,
        tower=tower,
        registry_hash=registry().content_hash,
    ).release_id


class World:
    """Two releases of two tower versions, and a server over them."""

    def __init__(self, parts: ServingParts, data: Path) -> None:
        self.data, self.parts = data, parts
        self.store = ReleaseStore(data / "releases")
        towers = [save_tower(data, seed) for seed in (1, 2)]
        self.towers = [tower.tower_version for tower in towers]
        self.releases = [save_release(data, tower) for tower in towers]
        self._runner = asyncio.Runner()
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(parts)), base_url="http://server"
        )

    def publish(self, number: int) -> None:
        self.store.publish(self.releases[number], actor="test", reason="test")
        self.parts.watcher.check()

    def call(self, method: str, path: str, **arguments: object) -> httpx.Response:
        return self._runner.run(self._client.request(method, path, **arguments))  # type: ignore[arg-type]

    def rank(self) -> dict[str, object]:
        response = self.call("POST", "/v1/rank", json={"user_id": 1, "slots": 5})
        assert response.status_code == 200
        answer: dict[str, object] = response.json()
        return answer

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


@pytest.fixture
def world(config: ServingConfig, tmp_path: Path, clock: FakeClock) -> Iterator[World]:
    parts = build_parts(config)
    made = World(parts, tmp_path)
    yield made
    made.close()
    parts.close()


def test_publish_swap_roll_back_and_recount(world: World) -> None:
    for number in (0, 1):
        world.publish(number)
        answer = world.rank()
        assert answer["release_id"] == world.releases[number]
        assert answer["query_tower_version"] == answer["pin_tower_version"] == world.towers[number]
        assert len(answer["ads"]) == 5  # type: ignore[arg-type]  # a list, as the schema says
    rolled = world.call(
        "POST",
        "/v1/releases/rollback",
        json={"actor": "me", "reason": "worse"},
        headers={"authorization": "Bearer the-admin-token"},
    )
    assert (rolled.status_code, rolled.json()["action"]) == (200, "rollback")
    world.parts.watcher.check()
    assert world.rank()["query_tower_version"] == world.towers[0]
    status = world.call("GET", "/v1/status").json()
    assert [swap["release_id"] for swap in status["swaps"]] == [
        world.releases[0],
        world.releases[1],
        world.releases[0],
    ]
    assert status["live"]["feature_coverage"]["pin_id"] == 1.0
    world.parts.close()
    counted = recount_mixed(world.data / "logs")
    assert (counted.responses, counted.pairs, counted.mixed) == (3, 15, 0)


def test_a_damaged_release_is_refused_and_the_old_one_serves_on(world: World) -> None:
    world.publish(0)
    world.store.publish(world.releases[1], actor="test", reason="test")
    path = world.store.directory(world.releases[1]) / "vectors.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.unlink()
    path.write_bytes(damaged)
    swap = world.parts.watcher.check()
    assert swap is not None
    assert (swap.result, world.rank()["release_id"]) == ("refused", world.releases[0])
    status = world.call("GET", "/v1/status").json()
    assert status["current"] == world.releases[1]
    assert status["swaps"][0]["fix"]


def test_a_release_without_its_query_tower_is_refused(world: World) -> None:
    world.publish(0)
    (world.data / "towers" / world.towers[1]).rename(world.data / "towers" / "elsewhere")
    world.publish(1)
    assert world.rank()["release_id"] == world.releases[0]
    assert world.call("GET", "/v1/releases").json()["served"] == world.releases[0]
