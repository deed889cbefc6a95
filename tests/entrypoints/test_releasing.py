import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from entrypoints import releasing
from entrypoints.releasing import Releaser, build_from_snapshot
from entrypoints.releasing_checks import check_release
from entrypoints.settings import Settings
from entrypoints.store_connection import release_store
from index.builder import BuildReport
from index.gates import Candidate
from models.live_towers import read_live_towers, write_live_towers
from schemas.artefacts import manifest_bytes, staged
from schemas.errors import Refused
from schemas.manifests import CheckResult, ReleaseManifest, SnapshotManifest
from schemas.rollovers import Rollover
from tests.entrypoints.world import HOUR_MS, cut, cut_tier, save_tower


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(data_dir=tmp_path, keep_releases=2, keep_snapshot_days=0)


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


def test_the_audit_trail_names_the_command_that_published(settings: Settings) -> None:
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])

    Releaser(settings)(cut(settings.data_dir, tower, 30))
    Releaser(settings, actor="skewless embed")(cut(settings.data_dir, tower, 31, hour=1))

    actors = [move.actor for move in release_store(settings).audit()]
    assert actors == ["skewless snapshots", "skewless embed"]


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


@pytest.mark.parametrize("versions", [[], ["f" * 64], ["0" * 63]])
def test_live_refuses_towers_that_are_not_there(settings: Settings, versions: list[str]) -> None:
    with pytest.raises(Refused):
        write_live_towers(settings.towers_dir, versions)


@pytest.mark.parametrize("text", [b'{"not": "a list"}', b"\xff\xfe", b"", b'["short"]', b"[]"])
def test_a_broken_live_file_is_refused(settings: Settings, text: bytes) -> None:
    settings.towers_dir.mkdir(parents=True)
    (settings.towers_dir / "LIVE").write_bytes(text)

    with pytest.raises(Refused) as refused:
        read_live_towers(settings.towers_dir)

    assert "JSON list" in refused.value.expected


def _gone_back(settings: Settings) -> tuple[str | None, SnapshotManifest]:
    """A second release was rolled back: the one that is live again, and the snapshot of the other."""
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    Releaser(settings)(cut(settings.data_dir, tower, 30))
    store = release_store(settings)
    good = store.current()
    bad = cut(settings.data_dir, tower, 30, hour=1)
    Releaser(settings)(bad)
    store.rollback(actor="operator", reason="recall fell")
    return good, bad


def test_what_was_rolled_back_is_not_published_again_by_a_cutter_that_restarts(settings: Settings) -> None:
    good, bad = _gone_back(settings)
    store = release_store(settings)

    Releaser(settings)(bad)

    assert store.current() == good


def test_what_was_rolled_back_is_not_published_again_though_it_is_rebuilt_with_other_bytes(
    settings: Settings,
) -> None:
    good, bad = _gone_back(settings)
    store = release_store(settings)
    other = settings.model_copy(update={"index_kind": "hnsw"})
    rebuilt = build_from_snapshot(other, bad.snapshot_id).release_id
    assert rebuilt not in {move.release_id for move in store.audit()}

    Releaser(other)(bad)

    assert store.current() == good
    store.publish(rebuilt, actor="operator", reason="it was the index")
    assert store.current() == rebuilt


def test_after_a_crash_the_towers_are_settled_though_the_release_is_rebuilt_with_other_bytes(
    settings: Settings,
) -> None:
    old, new = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    both = [old.tower_version, new.tower_version]
    write_live_towers(settings.towers_dir, both)
    Releaser(settings)(cut(settings.data_dir, old, 30))
    snapshot = cut(settings.data_dir, new, 30, hour=1)
    Releaser(settings)(snapshot)
    live = release_store(settings).current()
    write_live_towers(settings.towers_dir, both)  # as if killed right after the publication

    Releaser(settings.model_copy(update={"index_kind": "hnsw"}))(snapshot)

    assert release_store(settings).current() == live
    assert read_live_towers(settings.towers_dir) == [new.tower_version]


TIERS = """{"tiers": [
    {"name": "realtime", "policy": "realtime", "first_bucket": 0, "end_bucket": 30},
    {"name": "batch", "policy": "batch", "first_bucket": 30, "end_bucket": 100}]}"""


@pytest.fixture
def tiered(settings: Settings) -> Settings:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    (settings.data_dir / "tiers.json").write_text(TIERS)
    return settings


def _live(settings: Settings) -> ReleaseManifest:
    store = release_store(settings)
    current = store.current()
    assert current is not None
    return store.manifest(current)


def test_nothing_is_released_before_every_tier_has_a_snapshot_of_the_tower(
    tiered: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    tower = save_tower(tiered.data_dir, seed=1)
    write_live_towers(tiered.towers_dir, [tower.tower_version])
    caplog.set_level("INFO")

    Releaser(tiered)(cut_tier(tiered.data_dir, tower, "realtime", 60))
    assert release_store(tiered).list() == []
    assert "none of tier batch" in caplog.text

    Releaser(tiered)(cut_tier(tiered.data_dir, tower, "batch", 60))
    assert {name: part.policy for name, part in _live(tiered).tiers.items()} == {
        "realtime": "realtime",
        "batch": "batch",
    }
    assert _live(tiered).index.rows == 60


def test_a_new_realtime_snapshot_goes_out_with_the_newest_batch_snapshot(tiered: Settings) -> None:
    tower = save_tower(tiered.data_dir, seed=1)
    write_live_towers(tiered.towers_dir, [tower.tower_version])
    publish = Releaser(tiered)
    cut_tier(tiered.data_dir, tower, "batch", 60)
    batch = cut_tier(tiered.data_dir, tower, "batch", 60, hour=1)

    for hour in (1, 2):
        realtime = cut_tier(tiered.data_dir, tower, "realtime", 60, hour=hour)
        publish(realtime)
        assert set(_live(tiered).snapshot_id.split("+")) == {realtime.snapshot_id, batch.snapshot_id}
    assert _live(tiered).tiers["batch"].hour_ms == HOUR_MS + 3_600_000


def test_pain_2_a_candidate_goes_live_only_when_all_tiers_are_embedded_by_it(tiered: Settings) -> None:
    serving, candidate = save_tower(tiered.data_dir, seed=1), save_tower(tiered.data_dir, seed=2)
    write_live_towers(tiered.towers_dir, [serving.tower_version, candidate.tower_version])
    publish = Releaser(tiered)
    cut_tier(tiered.data_dir, serving, "batch", 60)
    publish(cut_tier(tiered.data_dir, serving, "realtime", 60))

    publish(cut_tier(tiered.data_dir, candidate, "realtime", 60, hour=1))
    assert _live(tiered).tower_version == serving.tower_version
    assert read_live_towers(tiered.towers_dir)[0] == serving.tower_version

    publish(cut_tier(tiered.data_dir, candidate, "batch", 60, hour=1))
    assert _live(tiered).tower_version == candidate.tower_version
    assert read_live_towers(tiered.towers_dir) == [candidate.tower_version]


def test_a_candidate_whose_batch_snapshot_holds_less_than_the_served_one_is_not_published(
    tiered: Settings,
) -> None:
    serving, candidate = save_tower(tiered.data_dir, seed=1), save_tower(tiered.data_dir, seed=2)
    write_live_towers(tiered.towers_dir, [serving.tower_version, candidate.tower_version])
    publish = Releaser(tiered)
    cut_tier(tiered.data_dir, candidate, "batch", 60, end=5)
    cut_tier(tiered.data_dir, serving, "batch", 66, end=9)
    publish(cut_tier(tiered.data_dir, serving, "realtime", 60))

    publish(cut_tier(tiered.data_dir, candidate, "realtime", 60))
    assert _live(tiered).tower_version == serving.tower_version
    assert read_live_towers(tiered.towers_dir)[0] == serving.tower_version

    publish(cut_tier(tiered.data_dir, candidate, "batch", 66, hour=1, end=9))
    assert _live(tiered).tower_version == candidate.tower_version


def test_a_slow_build_does_not_take_back_what_another_process_published_meanwhile(tiered: Settings) -> None:
    tower = save_tower(tiered.data_dir, seed=1)
    write_live_towers(tiered.towers_dir, [tower.tower_version])
    cut_tier(tiered.data_dir, tower, "batch", 60)
    built: list[str] = []

    class WhileItBuilds:
        name = "slow"

        def __call__(self, candidate: Candidate) -> CheckResult:
            built.append(candidate.tower.tower_version)
            if len(built) == 1:
                Releaser(tiered)(cut_tier(tiered.data_dir, tower, "batch", 66, end=9))
            return CheckResult(name=self.name, ok=True, detail="")

    Releaser(tiered, [WhileItBuilds()])(cut_tier(tiered.data_dir, tower, "realtime", 60))

    assert len(built) == 2
    assert _live(tiered).tiers["batch"].offsets == {"pin.features.v1": {0: 9}}
    assert len(release_store(tiered).audit()) == 1  # what the other one published is what it would have


def test_a_late_snapshot_of_a_tower_that_retired_does_not_turn_the_rollover_back(settings: Settings) -> None:
    old, new = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    write_live_towers(settings.towers_dir, [old.tower_version, new.tower_version])
    publish = Releaser(settings)
    publish(cut(settings.data_dir, old, 30))
    publish(cut(settings.data_dir, new, 30, hour=1))

    publish(cut(settings.data_dir, old, 31, hour=2))

    assert _live(settings).tower_version == new.tower_version


def test_the_tower_before_the_live_one_is_not_published_while_both_are_live(settings: Settings) -> None:
    old, new = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    write_live_towers(settings.towers_dir, [old.tower_version, new.tower_version])
    publish = Releaser(settings)
    publish(cut(settings.data_dir, old, 30))
    publish(cut(settings.data_dir, new, 30, hour=1))
    write_live_towers(settings.towers_dir, [old.tower_version, new.tower_version])  # it crashed

    publish(cut(settings.data_dir, old, 31, hour=2))

    assert _live(settings).tower_version == new.tower_version


def test_a_manual_rollover_builds_the_candidate_and_waits(settings: Settings) -> None:
    serving, candidate = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    write_live_towers(settings.towers_dir, [serving.tower_version, candidate.tower_version])
    publish = Releaser(settings)
    publish(cut(settings.data_dir, serving, 30))
    record = Rollover(
        candidate=candidate.tower_version,
        serving=serving.tower_version,
        started_ms=1,
        actor="operator",
        reason="week 27",
        manual=True,
        kept_snapshots=[],
        kept_releases=[],
        kept_runs=[],
        baseline={},
    )
    (settings.towers_dir / "ROLLOVER.json").write_bytes(manifest_bytes(record))

    publish(cut(settings.data_dir, candidate, 30, hour=1))

    assert _live(settings).tower_version == serving.tower_version
    built = [release_store(settings).manifest(one).tower_version for one in release_store(settings).list()]
    assert sorted(built) == sorted([serving.tower_version, candidate.tower_version])


def test_two_processes_that_release_at_once_leave_the_newest_of_both_tiers(tiered: Settings) -> None:
    tower = save_tower(tiered.data_dir, seed=1)
    write_live_towers(tiered.towers_dir, [tower.tower_version])
    cut_tier(tiered.data_dir, tower, "batch", 60)
    Releaser(tiered)(cut_tier(tiered.data_dir, tower, "realtime", 60))
    both = [cut_tier(tiered.data_dir, tower, tier, 60, hour=2) for tier in ("realtime", "batch")]

    with ThreadPoolExecutor(2) as beside:
        for done in [beside.submit(Releaser(tiered), snapshot) for snapshot in both]:
            done.result()

    assert set(_live(tiered).snapshot_id.split("+")) == {one.snapshot_id for one in both}


def test_who_built_from_what_is_no_longer_the_newest_builds_again(
    tiered: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = save_tower(tiered.data_dir, seed=1)
    write_live_towers(tiered.towers_dir, [tower.tower_version])
    cut_tier(tiered.data_dir, tower, "batch", 60)
    Releaser(tiered)(cut_tier(tiered.data_dir, tower, "realtime", 60))
    slow = Releaser(tiered)
    newer: list[SnapshotManifest] = []
    build = releasing.build_from_snapshots

    def meanwhile(*args: Any, **named: Any) -> BuildReport:
        built = build(*args, **named)
        if not newer:
            newer.append(cut_tier(tiered.data_dir, tower, "batch", 60, hour=3))
            Releaser(tiered)(newer[0])
        return built

    monkeypatch.setattr(releasing, "build_from_snapshots", meanwhile)
    mine = cut_tier(tiered.data_dir, tower, "realtime", 60, hour=2)
    slow(mine)

    assert set(_live(tiered).snapshot_id.split("+")) == {mine.snapshot_id, newer[0].snapshot_id}


def test_a_release_carries_the_answers_to_its_canary_queries_and_a_check_asks_them_again(
    settings: Settings,
) -> None:
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    Releaser(settings)(cut(settings.data_dir, tower, 30))
    names = [check.name for check in check_release(settings, None)]
    assert names[-3:] == ["canary_queries", "canaries", "loads"]


def test_a_gate_from_outside_can_hold_a_release_back(settings: Settings) -> None:
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])

    class Never:
        name = "never"

        def __call__(self, candidate: Candidate) -> CheckResult:
            return CheckResult(name=self.name, ok=False, detail=f"{len(candidate.rows)} rows")

    Releaser(settings, [Never()])(cut(settings.data_dir, tower, 30))
    assert release_store(settings).current() is None


def test_pain_6_a_release_moves_tower_calibration_registry_and_pins_together(settings: Settings) -> None:
    old, new = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    write_live_towers(settings.towers_dir, [old.tower_version, new.tower_version])
    publish = Releaser(settings)
    for tower in (old, new):
        publish(cut(settings.data_dir, tower, 30, hour=1))
        live = _live(settings)
        assert (live.tower_version, live.index.tower_version) == (tower.tower_version,) * 2
        assert (live.calibration, live.registry_hash) == (tower.calibration, tower.registry_hash)
        assert live.tiers["realtime"].versions == {tower.tower_version: 30}


def test_a_build_that_finds_the_disk_full_leaves_room_for_the_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    publish = Releaser(settings)
    for hour in range(3):
        publish(cut(settings.data_dir, tower, 30, hour=hour))
    kept = len(list(settings.snapshots_dir.iterdir()))

    def full(*_: object, **__: object) -> BuildReport:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(releasing, "build_from_snapshots", full)
    with pytest.raises(OSError, match="No space"):
        publish(cut(settings.data_dir, tower, 30, hour=3))

    assert len(list(settings.snapshots_dir.iterdir())) == kept


def test_a_clean_up_that_finds_the_disk_full_does_not_keep_the_snapshot_from_being_released(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(releasing, "clean_up", full)
    Releaser(settings)(cut(settings.data_dir, tower, 30))

    assert _live(settings).tower_version == tower.tower_version
    assert "old releases and snapshots stay" in caplog.text


def test_a_current_that_cannot_be_read_does_not_end_whoever_releases(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    publish = Releaser(settings)

    def stale() -> str:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(publish._store, "current", stale)
        publish(cut(settings.data_dir, tower, 30))
    assert "CURRENT cannot be read" in caplog.text
    assert release_store(settings).current() is None

    publish(cut(settings.data_dir, tower, 30, hour=1))
    assert _live(settings).tower_version == tower.tower_version


@pytest.mark.parametrize(("ahead", "warned"), [(1.0, False), (1.1, True)])
def test_a_snapshot_of_an_hour_that_has_not_come_is_named(
    settings: Settings, caplog: pytest.LogCaptureFixture, ahead: float, warned: bool
) -> None:
    """As a clock that was ahead has it cut: until then no release is built of a newer one."""
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    snapshot = cut(settings.data_dir, tower, 30)
    now_ms = HOUR_MS - int(ahead * 3_600_000)

    Releaser(settings, clock_ms=lambda: now_ms)(snapshot)

    said = [one.getMessage() for one in caplog.records if "has not come" in one.getMessage()]
    assert [snapshot.snapshot_id in one and "ReleaseStale" in one for one in said] == [True] * warned


def test_a_snapshot_of_an_hour_that_has_not_come_is_gone_back_from_and_moved_away(settings: Settings) -> None:
    """What the runbook ReleaseStale says."""
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    publish = Releaser(settings)
    publish(cut(settings.data_dir, tower, 30))
    ahead = cut(settings.data_dir, tower, 30, hour=1000)
    publish(ahead)
    publish(cut(settings.data_dir, tower, 31, hour=1))
    assert _live(settings).snapshot_id == ahead.snapshot_id

    release_store(settings).rollback(actor="ada", reason="clock")
    (settings.snapshots_dir / ahead.snapshot_id).rename(settings.data_dir / "moved-away")
    publish(cut(settings.data_dir, tower, 32, hour=2))

    assert _live(settings).index.rows == 32


@pytest.mark.parametrize("place", ["snapshots", "towers", "releases"])
def test_what_a_killed_process_left_is_gone_before_the_next_release_is_built(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    tower = save_tower(settings.data_dir, seed=1)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    left = settings.data_dir / place / ".staged-left"
    left.mkdir(parents=True)
    (left / "vectors.safetensors").write_bytes(b"x")
    real, was_there = releasing.build_from_snapshots, []

    def looks(*arguments: Any, **named: Any) -> BuildReport:
        was_there.append(left.exists())
        return real(*arguments, **named)

    monkeypatch.setattr(releasing, "build_from_snapshots", looks)
    with staged(settings.data_dir / place) as writing:
        Releaser(settings)(cut(settings.data_dir, tower, 30))
        assert writing.is_dir(), "somebody writes into it"

    assert was_there == [False]
    assert _live(settings).tower_version == tower.tower_version
