import errno
import os
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from models.live_towers import (
    complete_version,
    known_towers,
    locked_live_towers,
    read_live_towers,
    write_live_towers,
)
from schemas.errors import Refused

VERSIONS = [f"{number:064x}" for number in range(12)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version in VERSIONS:
        (tmp_path / version).mkdir()
        (tmp_path / version / "manifest.json").write_text("{}")
    return tmp_path


def test_of_many_that_add_a_tower_at_once_none_is_lost(root: Path) -> None:
    write_live_towers(root, VERSIONS[:1])
    together = threading.Barrier(len(VERSIONS) - 1)

    def add(version: str) -> None:
        together.wait(10)
        with locked_live_towers(root) as live:
            live.write([*live.read(), version])

    threads = [threading.Thread(target=add, args=(version,)) for version in VERSIONS[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert sorted(read_live_towers(root)) == VERSIONS
    assert read_live_towers(root)[0] == VERSIONS[0]


def test_a_refused_write_changes_nothing_and_leaves_no_file_where_no_towers_are(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        write_live_towers(tmp_path / "towers", VERSIONS[:1])

    assert not (tmp_path / "towers").exists()


def test_writing_what_is_there_touches_nothing(root: Path) -> None:
    write_live_towers(root, VERSIONS[:2])
    before = (root / "LIVE").stat()

    write_live_towers(root, VERSIONS[:2])

    assert (root / "LIVE").stat().st_ino == before.st_ino


def test_finished_checkpoints_are_known_and_completed_from_their_beginning(root: Path) -> None:
    for version in VERSIONS[8:]:
        (root / version / "READY").touch()
    assert known_towers(root) == VERSIONS[8:]
    assert known_towers(root / "missing") == []
    assert complete_version(root, VERSIONS[8]) == VERSIONS[8]
    with pytest.raises(Refused, match="which fits 4"):
        complete_version(root, "0")
    with pytest.raises(Refused, match="which fits 0"):
        complete_version(root, VERSIONS[0])


def test_a_directory_that_cannot_be_listed_is_not_one_without_towers(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def may_not(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", may_not)  # nothing binds root, whom the tests may run as
    with pytest.raises(PermissionError):
        complete_version(root, VERSIONS[0])
    monkeypatch.undo()
    with pytest.raises(NotADirectoryError):
        known_towers(root / VERSIONS[0] / "manifest.json")
