import threading
from pathlib import Path

import pytest

from models.live_towers import locked_live_towers, read_live_towers, write_live_towers
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
