"""The commands over releases, run as a user runs them, over a small data directory."""

import json
from pathlib import Path
from typing import Any

import pytest

from entrypoints.releasing import Releaser, build_from_snapshots
from entrypoints.settings import Settings
from entrypoints.store_connection import release_store
from models.live_towers import write_live_towers
from tests.entrypoints.test_cli import skewless
from tests.entrypoints.test_releasing import TIERS
from tests.entrypoints.world import cut, cut_tier, save_tower


def _json(data: Path, *command: str) -> Any:
    done = skewless("release", *command, "--json", data_dir=data)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two tiers, released together; the batch tier is two hours behind."""
    (tmp_path / "tiers.json").write_text(TIERS)
    tower = save_tower(tmp_path, seed=1)
    write_live_towers(tmp_path / "towers", [tower.tower_version])
    cut_tier(tmp_path, tower, "batch", 60)
    Releaser(Settings.load(data_dir=tmp_path))(cut_tier(tmp_path, tower, "realtime", 60, hour=2))
    return tmp_path


def test_the_list_shows_how_far_each_tier_is_behind(data: Path) -> None:
    (row,) = _json(data, "list")
    assert row["live"] == "yes"
    assert row["tiers"].endswith("(2 h behind)")
    assert row["versions"] == "one"


def test_a_release_is_built_by_hand_from_the_newest_of_every_tier_compared_and_published(data: Path) -> None:
    store = release_store(Settings.load(data_dir=data))
    before = store.current()
    tower = save_tower(data, seed=1)
    cut_tier(data, tower, "batch", 70, hour=1)
    cut_tier(data, tower, "realtime", 70, hour=3)

    built = _json(data, "build")
    assert built["rows"] == 70
    assert set(built["tiers"]) == {"realtime", "batch"}

    found = _json(data, "diff", str(before), built["release"])
    assert (found["pins"]["added"], found["pins"]["removed"], found["pins"]["reembedded"]) == (10, 0, 0)
    assert found["tiers"]["batch"]["hours_moved"] == 1.0
    assert "tower_version" not in found["manifest"]
    printed = skewless("release", "diff", str(before), built["release"], data_dir=data)
    assert "tier batch: rows" in printed.stdout

    refused = skewless("release", "publish", built["release"], "--expected", "none", data_dir=data)
    assert refused.returncode == 1
    assert "current_moved" in refused.stderr
    assert store.current() == before

    published = _json(data, "publish", built["release"], "--expected", str(before), "--reason", "by hand")
    assert published == {"live": built["release"]}
    last = store.audit()[-1]
    assert (last.previous_release_id, last.release_id, last.reason) == (before, built["release"], "by hand")
    assert last.actor

    assert _json(data, "rollback", "--expected", built["release"]) == {"live": before}


def test_versions_are_mixed_only_when_asked_to_and_such_a_release_goes_live_only_where_tolerated(
    tmp_path: Path,
) -> None:
    old, new = save_tower(tmp_path, seed=1), save_tower(tmp_path, seed=2)
    write_live_towers(tmp_path / "towers", [old.tower_version])
    cuts = [cut(tmp_path, old, 40), cut(tmp_path, new, 30, hour=1)]
    ids = [one.snapshot_id for one in cuts]

    refused = skewless("release", "build", *ids, data_dir=tmp_path)
    assert refused.returncode == 1
    assert "two_snapshots_of_a_tier" in refused.stderr

    built = _json(tmp_path, "build", *ids, "--tolerate", "--tower", new.tower_version[:12])
    # Revisions are equal, so the later snapshot's row of a Pin wins, and the rest is the earlier one's.
    assert built["tiers"] == {"realtime": {new.tower_version: 30, old.tower_version: 10}}
    store = release_store(Settings.load(data_dir=tmp_path))
    assert store.manifest(built["release"]).tower_version == new.tower_version

    held_back = skewless("release", "publish", built["release"], data_dir=tmp_path)
    assert held_back.returncode == 1
    assert "mixed_versions" in held_back.stderr
    assert f"10 of {old.tower_version}" in held_back.stderr
    assert store.current() is None


def test_a_query_tower_is_chosen_only_for_a_release_that_mixes(data: Path) -> None:
    done = skewless("release", "build", "--tower", "abc", data_dir=data)
    assert done.returncode == 2


def test_without_a_snapshot_of_the_serving_tower_there_is_nothing_to_build(tmp_path: Path) -> None:
    done = skewless("release", "build", data_dir=tmp_path)
    assert done.returncode == 1
    assert "no_snapshot" in done.stderr


def test_the_report_of_a_build_says_where_the_time_went(data: Path) -> None:
    settings = Settings.load(data_dir=data)
    ids = release_store(settings).manifest(str(release_store(settings).current())).snapshot_id.split("+")
    report = build_from_snapshots(settings, ids)
    assert report.manifest.release_id == release_store(settings).current()
    assert {"read_rows", "checks", "join", "publish"} <= set(report.seconds)
