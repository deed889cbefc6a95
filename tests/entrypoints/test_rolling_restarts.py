"""Servers are restarted one after the other under load, and nobody who asks notices."""

from pathlib import Path

import pytest

from features.definitions import registry
from index.builder import build_release
from index.releases import ReleaseStore
from serving.ranking_log import read_ranking_log
from tests.entrypoints.rolling import Balancer, RollingServer, Traffic, until
from tests.entrypoints.world import cut, save_tower

PINS = 60
DRAIN_SECONDS = 1.0
"""Fifty looks of the balancer: it has cores to share with everything else that runs."""


@pytest.fixture
def releases(tmp_path: Path) -> list[str]:
    """Two releases of two tower versions; the first is live."""
    store, built = ReleaseStore(tmp_path / "releases"), []
    for seed in (1, 2):
        tower = save_tower(tmp_path, seed)
        snapshot = cut(tmp_path, tower, PINS, hour=seed).snapshot_id
        hashed = registry().content_hash
        release = build_release(store, tmp_path / "snapshots", snapshot, tower=tower, registry_hash=hashed)
        built.append(release.release_id)
    store.publish(built[0], actor="test", reason="the first")
    return built


@pytest.mark.parametrize(
    "restarts", [5, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_no_query_fails_while_servers_are_restarted(
    restarts: int, tmp_path: Path, releases: list[str]
) -> None:
    servers = [RollingServer(tmp_path, DRAIN_SECONDS) for _ in range(2)]
    balancer = Balancer([server.port for server in servers])
    traffic, took = Traffic(balancer, callers=3), []
    try:
        with traffic.running():
            for restart in range(restarts):
                until(lambda: len(balancer.ready) == 2)
                traffic.goes_on(20)
                if restart == restarts // 2:
                    store = ReleaseStore(tmp_path / "releases")
                    store.publish(releases[1], actor="test", reason="the second")
                took.append(servers[restart % 2].end())
                servers[restart % 2].start()
            until(lambda: len(balancer.ready) == 2)
            traffic.goes_on(20)
        for server in servers:
            server.tell()
        for server in servers:
            server.end()  # the second signal: nobody asks any more
    finally:
        for server in servers:
            server.close()

    assert traffic.failures == []
    assert min(took) >= DRAIN_SECONDS
    assert max(took) < 10
    assert {answer["release_id"] for answer in traffic.answers} == set(releases)
    for answer in traffic.answers:
        assert answer["query_tower_version"] == answer["pin_tower_version"]
        assert list(answer["version_mix"]) == [answer["query_tower_version"]]
    # What was answered is in the log, each answer once, though both servers of one directory were restarted.
    logged = [row.request_id for row in read_ranking_log(tmp_path / "logs")]
    assert sorted(logged) == sorted(answer["request_id"] for answer in traffic.answers)
