"""A release of mixed versions, from the command that builds it to the recount of what it answered."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from entrypoints.release_report import build_by_hand
from entrypoints.settings import Settings
from entrypoints.store_connection import release_store
from entrypoints.wiring import serving_parts
from schemas.ranking import RankRequest
from schemas.tiers import VersionPolicy
from serving.answers import response_of
from serving.parts import ServingParts
from serving.version_policy import WARNING
from tests.entrypoints.test_cli import ROOT, skewless
from tests.entrypoints.world import cut, save_tower

PINS, RE_EMBEDDED = 40, 25


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """CURRENT names a release of 25 Pins embedded by a new tower and 15 that only the old one embedded."""
    old, new = save_tower(tmp_path, seed=1), save_tower(tmp_path, seed=2)
    snapshots = [cut(tmp_path, old, PINS).snapshot_id, cut(tmp_path, new, RE_EMBEDDED, hour=1).snapshot_id]
    settings = Settings(data_dir=tmp_path, version_policy="tolerate")
    built = build_by_hand(settings, snapshots, tower=new.tower_version, tolerate=True)
    release_store(settings).publish(built.manifest.release_id, actor="test", reason="to measure")
    return tmp_path


def looked_once(data: Path, policy: VersionPolicy) -> ServingParts:
    parts = serving_parts(Settings(data_dir=data, version_policy=policy), embedded_broker=False)
    parts.watcher.check()
    return parts


def test_a_server_that_enforces_refuses_it_with_the_histogram_and_serves_nothing(data: Path) -> None:
    parts = looked_once(data, "enforce")
    parts.close()
    (swap,) = parts.status().swaps

    assert (parts.live(), swap["result"], swap["code"]) == (None, "refused", "mixed_versions")
    assert f"{RE_EMBEDDED} of" in swap["came"]
    assert f"{PINS - RE_EMBEDDED} of" in swap["came"]
    assert "SKEWLESS_VERSION_POLICY=tolerate" in swap["fix"]


def test_a_server_that_tolerates_serves_and_labels_it_down_to_the_recount(data: Path) -> None:
    parts = looked_once(data, "tolerate")
    ranked = [parts.pipeline.rank(RankRequest(user_id=user, slots=5)) for user in range(3)]
    for one in ranked:
        parts.recorder.record(one)
    answers = [response_of(one) for one in ranked]
    status = parts.status()
    parts.close()

    assert status.live is not None
    assert (status.version_policy, status.live.version_policy) == ("tolerate", "tolerate")
    assert not status.live.aligned
    assert sorted(status.live.tiers[0].version_mix.values()) == [PINS - RE_EMBEDDED, RE_EMBEDDED]
    for answer in answers:
        assert answer.version_policy == "tolerate"
        assert answer.version_mix[answer.query_tower_version] == RE_EMBEDDED
        assert sum(answer.version_mix.values()) == PINS

    done = skewless("recount", "--json", data_dir=data)
    enforce, tolerate = json.loads(done.stdout)
    assert done.returncode == 0
    assert enforce["responses"] == 0
    assert (tolerate["responses"], tolerate["scored"]) == (3, 3 * PINS)
    assert tolerate["mixed_scored"] == 3 * (PINS - RE_EMBEDDED)


@pytest.mark.parametrize("policy", ["enforce", "tolerate"])
def test_a_server_that_tolerates_shouts_so_at_start(tmp_path: Path, policy: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SKEWLESS_")}
    environment |= {"SKEWLESS_DATA_DIR": str(tmp_path), "SKEWLESS_HTTP_PORT": "0", "NO_COLOR": "1"}
    environment["SKEWLESS_DRAIN_SECONDS"] = "0"
    with subprocess.Popen(
        [sys.executable, "-m", "entrypoints.cli", "serve", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment | {"SKEWLESS_VERSION_POLICY": policy},
    ) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        process.terminate()
        _, complaints = process.communicate(timeout=60)

    assert said["version_policy"] == policy
    assert (WARNING in complaints) == (policy == "tolerate")
