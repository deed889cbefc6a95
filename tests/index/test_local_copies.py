"""Directories of releases on one machine: which go, and what killed builds leave."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from index.local_copies import ABANDONED_SECONDS, LocalCopies, sweep_staged
from schemas.artefacts import staged
from schemas.errors import Refused
from tests.index.builders import Workshop, rows_of


def _built(root: Path, hours: range) -> tuple[LocalCopies, list[str]]:
    workshop = Workshop(root)
    ids = [workshop.build(rows_of(10, seed=hour), hour).release_id for hour in hours]
    return LocalCopies(workshop.releases.root), ids


def test_a_copy_is_whole_when_every_file_has_its_size(tmp_path: Path) -> None:
    copies, (release,) = _built(tmp_path, range(1))
    assert copies.whole(release)
    assert not copies.whole("20180101T00Z-nothing")
    (copies.root / release / "vectors.safetensors").unlink()
    assert not copies.whole(release)
    (copies.root / release / "manifest.json").write_bytes(b"{}")
    with pytest.raises(Refused, match="bad_checksum"):
        copies.whole(release)


def test_the_newest_and_the_needed_stay(tmp_path: Path) -> None:
    copies, ids = _built(tmp_path, range(4))
    assert copies.newest(1, needed={ids[1]}) == [ids[0], ids[2]]
    assert sorted(copies.ids()) == [ids[1], ids[3]]


def test_only_the_named_copies_count_and_go_oldest_first(tmp_path: Path) -> None:
    copies, ids = _built(tmp_path, range(4))
    for age, release in enumerate([ids[2], ids[0], ids[1]]):
        os.utime(copies.root / release / "READY", (age, age))
    assert copies.bound(1, among=ids[:3], needed={ids[2]}) == [ids[0], ids[1]]
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
