"""What retired towers leave, over chains of rollovers with real, tiny towers."""

from pathlib import Path

import pytest

from entrypoints import retention
from entrypoints.releasing import Releaser
from entrypoints.retention import clean_up
from entrypoints.rolling_back import roll_back
from entrypoints.settings import Settings
from entrypoints.store_connection import release_store
from models.live_towers import read_live_towers, write_live_towers
from schemas.artefacts import write_atomic
from schemas.embedding_runs import AssembledRun, EmbeddingRun
from schemas.errors import RetryableError
from schemas.manifests import TowerManifest
from streams.embedding_runs import ASSEMBLED, EmbeddingRuns
from tests.entrypoints.world import cut, save_tower


def _roll_over(settings: Settings, tower: TowerManifest, hour: int) -> None:
    """As with `SKEWLESS_BACKFILL=batch`: a run, its snapshot, and the cut that goes live."""
    data = settings.data_dir
    _run(settings, tower, started_ms=1)
    live = read_live_towers(settings.towers_dir) if (settings.towers_dir / "LIVE").is_file() else []
    write_live_towers(settings.towers_dir, [*live, tower.tower_version])
    Releaser(settings)(cut(data, tower, 30, hour=hour))
    assert read_live_towers(settings.towers_dir) == [tower.tower_version]


def _run(settings: Settings, tower: TowerManifest, started_ms: int, assembled: bool = True) -> str:
    plan = EmbeddingRun(
        run_id=f"realtime-{'0' * 12}-0000",
        tier="realtime",
        policy="realtime",
        tower_version=tower.tower_version,
        clock="event",
        started_ms=started_ms,
        ends={0: 5},
    )
    run = EmbeddingRuns(settings.embeddings_dir).begin(plan)
    if assembled:
        done = AssembledRun(snapshot_id="of-the-run", rows=30, failed=0, unreadable=0)
        write_atomic(run.path / ASSEMBLED, done.model_dump_json().encode())
    return run.path.name


def _snapshots(settings: Settings) -> int:
    return len([path for path in settings.snapshots_dir.iterdir() if path.is_dir()])


@pytest.mark.parametrize(("days", "hours", "kept"), [(0, 1, 2), (3, 24, 3)])
def test_a_chain_of_rollovers_leaves_no_more_after_the_third(
    tmp_path: Path, days: int, hours: int, kept: int
) -> None:
    settings = Settings.load(data_dir=tmp_path, keep_releases=2, keep_snapshot_days=days)
    counts = []
    for number in range(6):
        _roll_over(settings, save_tower(tmp_path, seed=number + 1), hour=number * hours)
        runs = [path for path in settings.embeddings_dir.iterdir() if path.is_dir()]
        counts.append((_snapshots(settings), len(runs), len(release_store(settings).list())))

    assert counts[2:] == [(kept, 2, 2)] * 4


def test_a_tower_that_a_rollback_may_need_keeps_what_it_has(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path, keep_releases=2, keep_snapshot_days=0)
    towers = [save_tower(tmp_path, seed=number) for number in (1, 2, 3)]
    for hour, tower in enumerate(towers):
        _roll_over(settings, tower, hour)
    assert _snapshots(settings) == 2

    roll_back(settings, "ada", "recall fell", ...)
    clean_up(settings, release_store(settings), "realtime")

    assert _snapshots(settings) == 2
    assert read_live_towers(settings.towers_dir)[0] == towers[1].tower_version


class _Failing(Exception):
    pass


@pytest.mark.parametrize("error", [RetryableError("the store is away"), OSError(28, "No space left")])
def test_old_releases_go_though_the_rest_cannot_and_the_rest_though_they_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    settings = Settings.load(data_dir=tmp_path, keep_releases=2, keep_snapshot_days=0)
    done: list[str] = []

    def failing(*_: object) -> None:
        done.append("the rest")
        raise error

    monkeypatch.setattr(retention, "sweep_staged", failing)
    store = release_store(settings)
    monkeypatch.setattr(store, "retain", lambda count: done.append("releases"))
    with pytest.raises(type(error)):
        clean_up(settings, store, "realtime")
    assert done == ["releases", "the rest"]

    def refusing(count: int) -> None:
        raise _Failing

    monkeypatch.setattr(retention, "sweep_staged", lambda *_: done.append("swept"))
    monkeypatch.setattr(store, "retain", refusing)
    with pytest.raises(_Failing):
        clean_up(settings, store, "realtime")
    assert "swept" in done


def test_snapshots_go_though_current_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(data_dir=tmp_path, keep_releases=2, keep_snapshot_days=0)
    tower = save_tower(tmp_path, seed=1)
    for hour in range(4):
        cut(tmp_path, tower, 30, hour=hour)
    store = release_store(settings)

    def stale() -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(store, "audit", stale)
    with pytest.raises(OSError, match="Stale"):  # of the releases, whose turn is first
        clean_up(settings, store, "realtime")
    assert _snapshots(settings) == 2


def test_a_tower_that_never_was_live_and_a_run_begun_after_it_retired_are_left_alone(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path, keep_releases=2, keep_snapshot_days=0)
    towers = [save_tower(tmp_path, seed=number) for number in range(1, 5)]
    for hour, tower in enumerate(towers[:3]):
        _roll_over(settings, tower, hour)
    prepared = cut(tmp_path, towers[3], 30).snapshot_id
    begun = [
        _run(settings, towers[3], started_ms=1, assembled=False),
        _run(settings, towers[0], started_ms=4_000_000_000_000, assembled=False),
    ]

    clean_up(settings, release_store(settings), "realtime")

    assert (settings.snapshots_dir / prepared).is_dir()
    assert [name for name in begun if (settings.embeddings_dir / name).is_dir()] == begun
