"""Publication as a commit: races, failing calls, SIGKILL, damage and power cuts leave the old or the new.

The figures in full are `python -m benchmarks.commits`; what runs here is a part of them, except where
marked slow.
"""

from pathlib import Path

import pytest

import schemas.artefacts
from benchmarks.commit_crashes import fail_each_step, replay_crashes
from benchmarks.commit_damages import damage_all
from benchmarks.commit_full_disk import fill_at_each_write
from benchmarks.commit_kills import kill_at_random
from benchmarks.commit_races import race_of_processes
from benchmarks.commit_world import CommitWorld

KILLS = [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]


@pytest.mark.parametrize(("writers", "commits"), [(3, 5), pytest.param(5, 10, marks=pytest.mark.slow)])
def test_no_move_of_processes_that_publish_at_once_is_lost_or_overwritten(
    tmp_path: Path, writers: int, commits: int
) -> None:
    result = race_of_processes(CommitWorld.on_disk(tmp_path), writers, commits)
    assert (result.commits, result.moves) == (writers * commits, writers * commits)
    assert (result.gaps, result.overwritten) == (0, 0)


def test_a_step_that_fails_or_says_so_wrongly_leaves_no_dangling_pointer_and_deletes_nothing(
    tmp_path: Path,
) -> None:
    result = fail_each_step(tmp_path)
    assert result.tried >= 40  # each was a publication of its own
    assert result.wrong == ()


def test_a_disk_that_is_full_is_named_shows_nothing_half_written_and_moves_nothing(tmp_path: Path) -> None:
    result = fill_at_each_write(tmp_path)
    assert result.tried >= 20  # each was a publication of its own
    assert result.wrong == ()


@pytest.mark.parametrize("kills", KILLS)
def test_after_a_kill_at_any_moment_a_reader_opens_a_complete_release(tmp_path: Path, kills: int) -> None:
    result = kill_at_random(tmp_path, kills, seed=1)
    assert (result.complete, result.refusals) == (kills, ())
    assert result.moves > 2  # somebody published between the kills


def test_each_of_a_hundred_damaged_files_is_refused_by_name(tmp_path: Path) -> None:
    result = damage_all(tmp_path, seed=1)
    assert result.tried >= 100
    assert result.missed == ()


def test_a_power_cut_at_any_moment_leaves_no_dangling_pointer(tmp_path: Path) -> None:
    result = replay_crashes(tmp_path, seed=1)
    assert result.moments >= 40
    assert result.states >= 300
    assert result.dangling == ()


@pytest.mark.parametrize("forgotten", ["files", "directories"])
def test_the_power_cuts_find_a_forgotten_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    real = schemas.artefacts._fsync

    def forgetful(path: Path) -> None:
        if path.is_dir() != (forgotten == "directories"):
            real(path)

    monkeypatch.setattr(schemas.artefacts, "_fsync", forgetful)
    assert replay_crashes(tmp_path, seed=1).dangling
