"""No release goes live over an object store whose tower no server could fetch."""

import shutil
from pathlib import Path

import pytest

from index.object_store import memory_objects
from index.object_towers import StoredTowers
from schemas.artefacts import MANIFEST, READY
from schemas.errors import Refused
from tests.index.builders import TOWER_A, rows_of
from tests.index.stores import WEIGHTS, StoreWorkshop, put_tower


def test_a_release_whose_tower_is_nowhere_does_not_go_live(tmp_path: Path) -> None:
    workshop = StoreWorkshop(tmp_path / "builder", objects=memory_objects())
    shutil.rmtree(tmp_path / "builder" / "towers" / TOWER_A)
    release = workshop.build(rows_of(10)).release_id

    with pytest.raises(Refused, match=f"missing_tower_files.*towers/{TOWER_A}"):
        workshop.releases.publish(release, actor="a", reason="r")
    assert workshop.releases.current() is None
    assert workshop.releases.audit() == []

    put_tower(tmp_path / "builder" / "towers", TOWER_A)
    workshop.releases.publish(release, actor="a", reason="r")
    assert workshop.elsewhere(tmp_path / "server").current() == release


def test_a_tower_that_the_store_has_need_not_be_here(tmp_path: Path) -> None:
    objects = memory_objects()
    put_tower(tmp_path / "trainer", TOWER_A)
    StoredTowers(objects, tmp_path / "trainer").send(TOWER_A, read_back=False)
    StoredTowers(objects, tmp_path / "elsewhere").send(TOWER_A, read_back=False)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST, READY])
def test_a_copy_of_a_tower_that_is_not_whole_is_fetched_again(tmp_path: Path, name: str, cut: bool) -> None:
    objects = memory_objects()
    put_tower(tmp_path / "trainer", TOWER_A)
    StoredTowers(objects, tmp_path / "trainer").send(TOWER_A, read_back=False)
    towers = StoredTowers(objects, tmp_path / "server")
    towers.fetch(TOWER_A)
    intact = {path.name: path.read_bytes() for path in (towers.root / TOWER_A).iterdir()}
    assert sorted(intact) == sorted([WEIGHTS, MANIFEST, READY]), "every file has its turn"
    damaged = towers.root / TOWER_A / name
    damaged.unlink()
    if cut:
        damaged.write_bytes(intact[name][:-1])

    towers.fetch(TOWER_A)

    assert {path.name: path.read_bytes() for path in (towers.root / TOWER_A).iterdir()} == intact


def test_a_damaged_tower_that_the_store_has_not_stays_for_whoever_reads_it_to_tell(tmp_path: Path) -> None:
    put_tower(tmp_path, TOWER_A)
    (tmp_path / TOWER_A / WEIGHTS).unlink()
    StoredTowers(memory_objects(), tmp_path).fetch(TOWER_A)
    assert (tmp_path / TOWER_A / READY).is_file()
