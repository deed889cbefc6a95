"""Which snapshots stay, and that a deletion is whole or not at all, whoever else deletes or dies."""

import errno
import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from index import snapshot_retention
from index.row_files import VECTORS
from index.snapshot_retention import delete_snapshot, retain_snapshots, sweep_deleted
from index.snapshots import list_snapshots, read_snapshot, readable_snapshots
from schemas.artefacts import READY
from schemas.manifests import SnapshotManifest
from tests.index.builders import TOWER_A, TOWER_B, Workshop, rows_of


def test_retention_keeps_the_newest_of_each_tower_version_and_leaves_other_tiers_alone(
    tmp_path: Path,
) -> None:
    workshop = Workshop(tmp_path)
    cuts = [
        workshop.cut(rows_of(20 + hour, versions=(version,)), hour=hour)
        for hour in range(3)
        for version in (TOWER_A, TOWER_B)
    ]

    deleted = retain_snapshots(workshop.snapshots, cuts[0].tier, 2)

    assert sorted(deleted) == sorted(cut.snapshot_id for cut in cuts[:2])
    assert list_snapshots(workshop.snapshots) == sorted(cut.snapshot_id for cut in cuts[2:])
    assert retain_snapshots(workshop.snapshots, "another-tier", 1) == []


def test_two_that_clean_up_at_once_share_the_work_and_neither_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Workshop(tmp_path)
    cuts = [workshop.cut(rows_of(20 + hour), hour).snapshot_id for hour in range(6)]
    answers: list[list[str]] = [[], []]
    listed = threading.Barrier(2, timeout=30)
    real = readable_snapshots

    def listed_by_both(root: Path) -> list[SnapshotManifest]:
        found = real(root)
        listed.wait()
        return found

    monkeypatch.setattr(snapshot_retention, "readable_snapshots", listed_by_both)

    def clean_up(number: int) -> None:
        answers[number] = retain_snapshots(workshop.snapshots, "realtime", 1)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(clean_up, number) for number in range(2)]:
            done.result()
    assert sorted(answers[0] + answers[1]) == cuts[:-1], "each was deleted by one of them"
    assert [path.name for path in workshop.snapshots.iterdir()] == cuts[-1:]


def test_a_snapshot_that_others_delete_at_the_same_time_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Workshop(tmp_path)
    snapshot = workshop.cut(rows_of(20)).snapshot_id
    real = shutil.rmtree

    def rival_first(path: Path) -> None:
        if (path / VECTORS).is_file():
            (path / VECTORS).unlink()
            raise FileNotFoundError(path / VECTORS)
        real(path)

    monkeypatch.setattr(shutil, "rmtree", rival_first)
    assert delete_snapshot(workshop.snapshots, snapshot, pause=lambda seconds: None)
    assert not (workshop.snapshots / snapshot).exists()
    assert not delete_snapshot(workshop.snapshots, snapshot)


def test_what_a_deletion_that_died_left_is_deleted(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    snapshot = workshop.cut(rows_of(20)).snapshot_id
    (workshop.snapshots / snapshot / READY).unlink()
    assert not delete_snapshot(workshop.snapshots, snapshot)
    assert not (workshop.snapshots / snapshot).exists()


def test_of_older_snapshots_the_last_of_each_day_is_kept_for_some_days(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    # The first hour is 23:00, so hours 1 to 24 are the day after it.
    cuts = {hour: workshop.cut(rows_of(20 + hour), hour) for hour in (0, 1, 5, 24, 25, 30, 49, 50)}

    retain_snapshots(workshop.snapshots, "realtime", 2, days=2)

    kept = {hour for hour, one in cuts.items() if one.snapshot_id in list_snapshots(workshop.snapshots)}
    assert kept == {49, 50, 30}
    assert retain_snapshots(workshop.snapshots, "realtime", 2, days=2) == []


class Died(BaseException):
    """The process is gone."""


def _die(*_: object, **__: object) -> None:
    raise Died


def test_a_deletion_that_is_killed_leaves_no_part_of_a_snapshot_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Workshop(tmp_path)
    doomed, other = (workshop.cut(rows_of(20 + hour), hour).snapshot_id for hour in range(2))
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(shutil, "rmtree", _die)
        delete_snapshot(workshop.snapshots, doomed)

    assert [path.name for path in workshop.snapshots.iterdir() if path.name[0] != "."] == [other]
    again = workshop.cut(rows_of(20), 0)
    assert read_snapshot(workshop.snapshots, again.snapshot_id)[0] == again
    assert again.snapshot_id == doomed
    assert delete_snapshot(workshop.snapshots, doomed)
    assert [path.name for path in workshop.snapshots.iterdir()] == [other]


def test_what_killed_deletions_left_goes_with_the_next_clean_up_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Workshop(tmp_path)
    killed, wreck, good = (workshop.cut(rows_of(20 + hour), hour).snapshot_id for hour in range(3))
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(shutil, "rmtree", _die)
        delete_snapshot(workshop.snapshots, killed)
    (workshop.snapshots / wreck / READY).unlink()  # as a deletion of an earlier Skewless left it
    (workshop.snapshots / "moved-away").mkdir()

    assert retain_snapshots(workshop.snapshots, "another-tier", 1) == []

    assert sorted(path.name for path in workshop.snapshots.iterdir()) == sorted([good, "moved-away"])
    sweep_deleted(tmp_path / "nowhere")


def test_a_retired_tower_keeps_the_last_of_each_day_for_some_days_of_the_tier(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    # The first hour is 23:00: hours 0, 1 and 2, 25 and 26, 49 are of four days.
    old = {hour: workshop.cut(rows_of(20 + hour), hour).snapshot_id for hour in (0, 1, 2, 25, 26)}
    new = workshop.cut(rows_of(20, versions=(TOWER_B,)), 49).snapshot_id

    retain_snapshots(workshop.snapshots, "realtime", 2, days=3, retired=[TOWER_A])
    assert list_snapshots(workshop.snapshots) == sorted([old[2], old[26], new])

    retain_snapshots(workshop.snapshots, "realtime", 2, days=0, retired=[TOWER_A])
    assert list_snapshots(workshop.snapshots) == [new]


def _refusing(monkeypatch: pytest.MonkeyPatch, step: str, name: str, number: int) -> Callable[[], None]:
    """Let one path be undeletable (`rmtree`) or unmovable (`rename`); the returned call ends that."""
    real_delete, real_rename = shutil.rmtree, Path.rename
    refused = [True]

    def delete(path: Path, ignore_errors: bool = False) -> None:
        if refused and step == "rmtree" and name in path.name:
            raise OSError(number, "as the disk says", str(path))
        real_delete(path, ignore_errors)

    def rename(path: Path, target: Path) -> Path:
        if refused and step == "rename" and path.name == name:
            raise OSError(number, "as the disk says", str(path))
        return real_rename(path, target)

    monkeypatch.setattr(shutil, "rmtree", delete)
    monkeypatch.setattr(Path, "rename", rename)
    return refused.clear


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("step", ["rmtree", "rename"])
def test_a_snapshot_that_cannot_be_deleted_keeps_no_other_and_goes_when_it_can_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
    number: int,
) -> None:
    workshop = Workshop(tmp_path)
    cuts = [workshop.cut(rows_of(20 + hour), hour).snapshot_id for hour in range(4)]
    let_go = _refusing(monkeypatch, step, cuts[1], number)

    deleted = retain_snapshots(workshop.snapshots, "realtime", 1)

    there = [path.name for path in workshop.snapshots.iterdir()]
    if step == "rmtree":  # it is hidden already: nobody finds it any more
        assert (deleted, sorted(there)) == (cuts[2::-1], [f".deleting-{cuts[1]}", cuts[3]])
    else:
        assert (deleted, sorted(there)) == ([cuts[2], cuts[0]], [cuts[1], cuts[3]])
    assert any(cuts[1] in record.getMessage() for record in caplog.records)
    assert retain_snapshots(workshop.snapshots, "another-tier", 1) == []
    let_go()
    retain_snapshots(workshop.snapshots, "realtime", 1)
    assert [path.name for path in workshop.snapshots.iterdir()] == [cuts[3]]


def test_a_wreck_that_is_closed_to_this_user_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Workshop(tmp_path)
    closed, wreck = (workshop.cut(rows_of(20 + hour), hour).snapshot_id for hour in range(2))
    for name in (closed, wreck):
        (workshop.snapshots / name / READY).unlink()
    real = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent.name == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    sweep_deleted(workshop.snapshots)
    assert [path.name for path in workshop.snapshots.iterdir()] == [closed]


def test_a_directory_that_cannot_be_emptied_is_given_up_after_some_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workshop = Workshop(tmp_path)
    cuts = [workshop.cut(rows_of(20 + hour), hour).snapshot_id for hour in range(2)]
    let_go = _refusing(monkeypatch, "rmtree", cuts[0], errno.ENOTEMPTY)  # as NFS with a file that is open
    pauses: list[float] = []

    with caplog.at_level(logging.WARNING):
        assert retain_snapshots(workshop.snapshots, "realtime", 1, pause=pauses.append) == [cuts[0]]

    assert list_snapshots(workshop.snapshots) == [cuts[1]]
    assert 0 < len(pauses) <= 20
    assert sum(pauses) < 5
    assert "tries again" in caplog.text
    # The same snapshot, written again meanwhile, cannot be hidden beside what is left of the first.
    assert workshop.cut(rows_of(20), 0).snapshot_id == cuts[0]
    assert not delete_snapshot(workshop.snapshots, cuts[0], pause=pauses.append)
    assert list_snapshots(workshop.snapshots) == cuts
    let_go()
    assert retain_snapshots(workshop.snapshots, "realtime", 1) == [cuts[0]]
    assert [path.name for path in workshop.snapshots.iterdir()] == [cuts[1]]
