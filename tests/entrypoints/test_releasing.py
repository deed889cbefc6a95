from pathlib import Path

import pytest

from entrypoints.releasing import Releaser, build_from_snapshot, check_release
from entrypoints.settings import Settings
from entrypoints.wiring import LiveTowers, release_store
from models.live_towers import read_live_towers, write_live_towers
from schemas.errors import Refused
from tests.entrypoints.world import cut, save_tower


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(data_dir=tmp_path, keep_releases=2)


def test_a_snapshot_becomes_the_live_release(settings: Settings) -> None:
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])

    Releaser(settings)(cut(settings.data_dir, tower, 30))

    store = release_store(settings)
    current = store.current()
    assert current is not None
    assert store.manifest(current).tower_version == tower.tower_version
    assert check_release(settings, None)[-1].name == "loads"


def test_the_same_snapshot_twice_is_published_once(settings: Settings) -> None:
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    snapshot = cut(settings.data_dir, tower, 30)

    Releaser(settings)(snapshot)
    Releaser(settings)(snapshot)

    assert [move.action for move in release_store(settings).audit()] == ["publish"]


def test_a_snapshot_that_is_refused_leaves_the_live_release(settings: Settings) -> None:
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    publish = Releaser(settings)
    publish(cut(settings.data_dir, tower, 30))
    before = release_store(settings).current()

    publish(cut(settings.data_dir, tower, 10, hour=1))  # fewer than half of the live release's Pins

    assert release_store(settings).current() == before
    with pytest.raises(Refused) as refused:
        build_from_snapshot(settings, cut(settings.data_dir, tower, 10, hour=1).snapshot_id)
    assert refused.value.code == "too_few_rows"


def test_a_candidate_that_goes_live_becomes_the_serving_tower_and_the_old_one_retires(
    settings: Settings,
) -> None:
    serving, candidate = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    write_live_towers(settings.towers_dir, [serving.tower_version, candidate.tower_version])
    publish = Releaser(settings)

    publish(cut(settings.data_dir, serving, 30))
    assert read_live_towers(settings.towers_dir) == [serving.tower_version, candidate.tower_version]

    publish(cut(settings.data_dir, candidate, 30, hour=1))
    assert read_live_towers(settings.towers_dir) == [candidate.tower_version]

    write_live_towers(settings.towers_dir, [serving.tower_version, candidate.tower_version])  # crashed
    publish(cut(settings.data_dir, candidate, 30, hour=1))
    assert read_live_towers(settings.towers_dir) == [candidate.tower_version]


def test_a_release_of_the_serving_tower_retires_nobody_wherever_it_stands_in_live(settings: Settings) -> None:
    old, new = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    write_live_towers(settings.towers_dir, [old.tower_version])
    publish = Releaser(settings)
    publish(cut(settings.data_dir, old, 30))

    write_live_towers(settings.towers_dir, [new.tower_version, old.tower_version])
    publish(cut(settings.data_dir, old, 31, hour=1))

    assert read_live_towers(settings.towers_dir) == [new.tower_version, old.tower_version]


def test_only_the_newest_releases_and_snapshots_are_kept(settings: Settings) -> None:
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    publish = Releaser(settings)

    for hour in range(4):
        publish(cut(settings.data_dir, tower, 30, hour=hour))

    assert len(release_store(settings).list()) == 2
    assert len(list(settings.snapshots_dir.iterdir())) == 2


def test_live_towers_are_read_again_but_loaded_once(settings: Settings) -> None:
    first, second = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    now = 0.0
    live = LiveTowers(settings, lambda: now)
    assert live() == ()

    write_live_towers(settings.towers_dir, [first.tower_version])
    assert live() == ()  # looked at less than half a second ago
    now = 1.0
    (loaded,) = live()
    write_live_towers(settings.towers_dir, [first.tower_version, second.tower_version])
    now = 2.0

    again, new = live()
    assert again is loaded
    assert new.version == second.tower_version


@pytest.mark.parametrize("versions", [[], ["f" * 64], ["0" * 63]])
def test_live_refuses_towers_that_are_not_there(settings: Settings, versions: list[str]) -> None:
    with pytest.raises(Refused):
        write_live_towers(settings.towers_dir, versions)


@pytest.mark.parametrize("text", [b'{"not": "a list"}', b"\xff\xfe", b"", b'["short"]'])
def test_a_broken_live_file_is_refused(settings: Settings, text: bytes) -> None:
    settings.towers_dir.mkdir(parents=True)
    (settings.towers_dir / "LIVE").write_bytes(text)

    with pytest.raises(Refused) as refused:
        read_live_towers(settings.towers_dir)

    assert "JSON list" in refused.value.expected


def test_what_was_rolled_back_is_not_published_again_by_a_cutter_that_restarts(settings: Settings) -> None:
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    Releaser(settings)(cut(settings.data_dir, tower, 30))
    store = release_store(settings)
    good = store.current()
    bad = cut(settings.data_dir, tower, 30, hour=1)
    Releaser(settings)(bad)
    store.rollback(actor="operator", reason="recall fell")

    Releaser(settings)(bad)

    assert store.current() == good
