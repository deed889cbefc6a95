"""Directories of releases on one machine: which go, and what killed builds leave."""

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from index.local_copies import ABANDONED_SECONDS, LocalCopies, sweep_staged
from schemas.artefacts import staged
from tests.index.builders import Workshop, rows_of


def _built(root: Path, hours: range) -> tuple[LocalCopies, list[str]]:
    workshop = Workshop(root)
    ids = [workshop.build(rows_of(10, seed=hour), hour).release_id for hour in hours]
    return LocalCopies(workshop.releases.root), ids


def test_the_newest_and_the_needed_stay(tmp_path: Path) -> None:
    copies, ids = _built(tmp_path, range(4))
    assert copies.keep_newest(1, needed={ids[1]}) == [ids[0], ids[2]]
    assert sorted(copies.ids()) == [ids[1], ids[3]]


def test_only_the_named_copies_count_and_go_oldest_first(tmp_path: Path) -> None:
    copies, ids = _built(tmp_path, range(4))
    for age, release in enumerate([ids[2], ids[0], ids[1]]):
        os.utime(copies.root / release / "READY", (age, age))
    assert copies.keep_latest(1, among=ids[:3], needed={ids[2]}) == [ids[0], ids[1]]
    assert sorted(copies.ids()) == [ids[2], ids[3]]


def test_what_a_killed_build_left_is_swept_and_a_build_that_goes_on_is_not(tmp_path: Path) -> None:
    left = tmp_path / ".staged-left"
    left.mkdir()
    (left / "vectors.safetensors").write_bytes(b"x")
    now_ms = int(left.stat().st_mtime * 1000)
    with staged(tmp_path) as held:
        sweep_staged(tmp_path, now_ms)
        assert list(tmp_path.iterdir()) == [held]


def test_only_what_no_process_has_touched_for_a_day_is_swept_where_nothing_can_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.EBADF, "a network file system")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    old, new = tmp_path / ".staged-old", tmp_path / ".staged-new"
    for directory, changed in ((old, 0.0), (new, 10.0)):
        directory.mkdir()
        (directory / "vectors.safetensors").write_bytes(b"x")
        os.utime(directory, (changed, changed))
    for name, changed in ((".CURRENT-old", 0.0), (".CURRENT-new", 10.0), ("CURRENT", 0.0)):
        (tmp_path / name).write_bytes(b"id")
        os.utime(tmp_path / name, (changed, changed))
    sweep_staged(tmp_path, int((ABANDONED_SECONDS + 5) * 1000))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".CURRENT-new", ".staged-new", "CURRENT"]


def test_what_has_no_releases_name_or_is_closed_to_this_user_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies, ids = _built(tmp_path, range(3))
    shutil.copytree(copies.root / ids[0], copies.root / f"{ids[0]} copy")
    real = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent.name == ids[0]:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert copies.keep_newest(1, needed=()) == [ids[1]]
    assert (copies.root / f"{ids[0]} copy" / "READY").exists()


def test_a_release_that_cannot_be_deleted_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copies, ids = _built(tmp_path, range(4))
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name == ids[1]:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        assert copies.keep_newest(1, needed=()) == [ids[0], ids[2]]
    assert ids[1] in caplog.text
    assert copies.keep_newest(1, needed=()) == [ids[1]]


def test_what_an_earlier_deletion_left_is_in_nobodys_way(tmp_path: Path) -> None:
    copies, ids = _built(tmp_path, range(1))
    left = copies.root / f".deleting-{ids[0]}"
    left.mkdir()
    (left / "vectors.safetensors").write_bytes(b"x")
    assert copies.drop(ids) == ids
    assert list(copies.root.iterdir()) == []


def test_a_half_written_directory_that_is_closed_to_this_user_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (".staged-closed", ".staged-left"):
        (tmp_path / name).mkdir()
    real = os.open

    def closed(path: Path, flags: int, *rest: int, dir_fd: int | None = None) -> int:
        if Path(path).name == ".staged-closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", closed)
    sweep_staged(tmp_path, now_ms=0)
    assert [path.name for path in tmp_path.iterdir()] == [".staged-closed"]
