"""Twenty swaps of three tower versions under load on a sharded server, with a leaf killed in the middle."""

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest

from benchmarks.fixtures import NOW_MS, catalogue, save_release, save_tower
from benchmarks.ranking_server import Connection
from benchmarks.shard_processes import Cluster
from index.releases import ReleaseStore
from serving.ranking_log import recount_mixed

SHARDS, SWAPS, CLIENTS, PINS = 3, 20, 3, 3_000

pytestmark = pytest.mark.slow


@dataclass
class Client:
    """Asks until it is told to stop, and notes what is wrong with any answer."""

    port: int
    versions: dict[str, str]
    number: int
    stop: threading.Event
    asked: int = 0
    releases: set[str] = field(default_factory=set)
    partial: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        rng = random.Random(self.number)
        with Connection(self.port) as connection:
            while not self.stop.is_set():
                history = [rng.randrange(1, PINS) for _ in range(10)]
                question = {"slots": 10, "history": history, "occurred_at_ms": NOW_MS, "user_id": 1}
                status, body = connection.rank(question | {"request_id": f"{self.number}-{self.asked}"})
                self.asked += 1
                if status != 200:
                    self.wrong.append(f"{status}: {body[:200]!r}")
                    continue
                answer = orjson.loads(body)
                tower = self.versions[answer["release_id"]]
                self.releases.add(answer["release_id"])
                self.partial += answer["coverage"]["shards_answered"] < SHARDS
                came = {answer["query_tower_version"], answer["pin_tower_version"], *answer["version_mix"]}
                if came != {tower} or len(answer["ads"]) != 10:
                    self.wrong.append(f"mixed or short: {body[:300]!r}")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Cluster, ReleaseStore, dict[str, str]]]:
    pins = catalogue(PINS, seed=5)
    towers = [save_tower(tmp_path, seed) for seed in (1, 2, 3)]
    versions = {save_release(tmp_path, tower, pins): tower.tower_version for tower in towers}
    store = ReleaseStore(tmp_path / "releases")
    store.publish(next(iter(versions)), actor="test", reason="first")
    cluster = Cluster(tmp_path, SHARDS, SKEWLESS_LEAF_DEADLINE_SECONDS="20", SKEWLESS_LEAF_DOWN_SECONDS="300")
    cluster.start()
    try:
        cluster.wait_until_served(next(iter(versions)))
        yield cluster, store, versions
    finally:
        cluster.close()


@pytest.mark.parametrize("kill", [False, True], ids=["all leaves up", "a leaf is killed in the middle"])
def test_swaps_under_load_mix_nothing_and_refuse_nobody(
    world: tuple[Cluster, ReleaseStore, dict[str, str]], tmp_path: Path, kill: bool
) -> None:
    cluster, store, versions = world
    order, stop = list(versions), threading.Event()
    clients = [Client(cluster.root.port, versions, number, stop) for number in range(CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    try:
        for swap in range(1, SWAPS + 1):
            if kill and swap == SWAPS // 2:
                cluster.leaves[0].kill()
                cluster.leaves[0].start()
            wanted = order[swap % len(order)]
            store.publish(wanted, actor="test", reason="storm")
            cluster.wait_until_served(wanted)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    cluster.close()
    asked = sum(client.asked for client in clients)
    counted = recount_mixed(tmp_path / "logs")

    assert [client.wrong for client in clients] == [[]] * CLIENTS
    assert set().union(*(client.releases for client in clients)) == set(versions)
    assert (counted.responses, counted.mixed) == (asked, 0)
    assert (sum(client.partial for client in clients) > 0) is kill, "complete unless a leaf was down"
