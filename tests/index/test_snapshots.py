"""The same rows give the same bytes and the same id, and come back as they were."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.row_files import ATTRIBUTES_FILE, VECTORS, SnapshotRows
from index.snapshots import (
    hour_name,
    list_snapshots,
    newest_of_tiers,
    read_snapshot,
    readable_snapshots,
    snapshot_manifest,
)
from schemas.errors import Refused
from tests.index.builders import FIRST_HOUR_MS, TOWER_A, TOWER_B, Workshop, rows_of


def _bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _shuffled(rows: SnapshotRows) -> SnapshotRows:
    return rows.take(np.random.default_rng(4).permutation(len(rows)))


def test_cutting_the_same_rows_twice_gives_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    rows = rows_of(500, versions=(TOWER_B, TOWER_A))
    shuffled = _shuffled(rows)
    # The other cutter met the versions in another order too, and one that no row is left of.
    recoded = replace(
        shuffled,
        versions=["0" * 64, TOWER_A, TOWER_B],
        version_code=np.where(shuffled.version_code == 0, 2, 1).astype(np.uint8),
    )
    first, second = Workshop(tmp_path / "1"), Workshop(tmp_path / "2")
    one, two = first.cut(rows), second.cut(recoded)
    assert one == two
    assert _bytes(first.snapshots / one.snapshot_id) == _bytes(second.snapshots / two.snapshot_id)


def test_cutting_again_in_the_same_place_changes_nothing(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    first = workshop.cut(rows_of(20))
    inode = (workshop.snapshots / first.snapshot_id / VECTORS).stat().st_ino
    assert workshop.cut(rows_of(20)) == first
    assert (workshop.snapshots / first.snapshot_id / VECTORS).stat().st_ino == inode
    assert [path.name for path in workshop.snapshots.iterdir()] == [first.snapshot_id]


def test_rows_come_back_sorted_by_version_and_pin(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    rows = rows_of(100, versions=(TOWER_B, TOWER_A))
    manifest, read = read_snapshot(workshop.snapshots, workshop.cut(_shuffled(rows)).snapshot_id)
    order = np.concatenate((np.arange(1, 100, 2), np.arange(0, 100, 2)))
    assert read.versions == [TOWER_A, TOWER_B]
    assert np.array_equal(read.version_code, np.repeat([0, 1], 50))
    assert np.array_equal(read.attributes, rows.attributes[order])
    assert np.array_equal(read.vectors, rows.vectors[order])
    assert read.titles.to_pylist() == [f"Pin {1000 + i}" for i in order]
    assert manifest.versions == {TOWER_A: 50, TOWER_B: 50}
    assert (manifest.rows, manifest.dimension) == (100, 8)


def test_the_manifest_says_how_new_the_rows_are_and_what_they_cover(tmp_path: Path) -> None:
    manifest = Workshop(tmp_path).cut(rows_of(10))
    assert manifest.newest_event_ms == FIRST_HOUR_MS + 9
    assert manifest.newest_ingest_ms == FIRST_HOUR_MS + 14
    assert manifest.offsets == {"pin.embedded.v1": {0: 10, 1: 20}}
    assert manifest.snapshot_id.startswith("realtime-20171231T23Z-")


def test_another_row_is_another_snapshot(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    one, two = workshop.cut(rows_of(10)), workshop.cut(rows_of(11))
    assert list_snapshots(workshop.snapshots) == sorted([one.snapshot_id, two.snapshot_id])


def test_an_hour_without_rows_can_be_cut_and_read(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    manifest, rows = read_snapshot(workshop.snapshots, workshop.cut(rows_of(0)).snapshot_id)
    assert (manifest.rows, manifest.versions, manifest.newest_event_ms) == (0, {}, 0)
    assert rows.vectors.shape == (0, 8)


def test_the_rows_of_one_version_are_a_snapshot_that_can_be_built(tmp_path: Path) -> None:
    mixed = rows_of(100, versions=(TOWER_A, TOWER_B))
    workshop = Workshop(tmp_path)
    assert workshop.build(mixed.of_version(TOWER_A)).index.rows == 50
    assert len(mixed.of_version("e" * 64)) == 0


def test_titles_of_any_script_and_length_come_back(tmp_path: Path) -> None:
    titles = ["", "Käse, 200 g", "寿司 🍣", "x" * 10_000]
    rows = replace(rows_of(4), titles=pa.array(titles, pa.string()))
    workshop = Workshop(tmp_path)
    assert read_snapshot(workshop.snapshots, workshop.cut(rows).snapshot_id)[1].titles.to_pylist() == titles


def test_columns_of_unequal_length_are_refused(tmp_path: Path) -> None:
    rows = replace(rows_of(10), vectors=rows_of(9).vectors)
    with pytest.raises(Refused, match="row_count"):
        Workshop(tmp_path).cut(rows)


def test_a_version_code_without_a_version_is_refused(tmp_path: Path) -> None:
    rows = replace(rows_of(10), version_code=np.full(10, 3, np.uint8))
    with pytest.raises(Refused, match="unknown_version"):
        Workshop(tmp_path).cut(rows)


def test_a_row_without_a_title_is_refused(tmp_path: Path) -> None:
    rows = replace(rows_of(2), titles=pa.array(["Pin", None], pa.string()))
    with pytest.raises(Refused, match="null_title"):
        Workshop(tmp_path).cut(rows)


@pytest.mark.parametrize("name", [VECTORS, ATTRIBUTES_FILE, "manifest.json", "READY"])
def test_a_changed_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    workshop = Workshop(tmp_path)
    snapshot = workshop.cut(rows_of(10)).snapshot_id
    path = workshop.snapshots / snapshot / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(Refused, match="bad_checksum"):
        read_snapshot(workshop.snapshots, snapshot)
    path.unlink()
    with pytest.raises(Refused, match=r"missing_file|not_ready"):
        read_snapshot(workshop.snapshots, snapshot)


def test_a_renamed_snapshot_is_refused(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    snapshot = workshop.cut(rows_of(10)).snapshot_id
    (workshop.snapshots / snapshot).rename(workshop.snapshots / "other")
    with pytest.raises(Refused, match="wrong_id"):
        snapshot_manifest(workshop.snapshots, "other")


def test_hours_are_named_in_utc_and_sort_as_they_come() -> None:
    assert hour_name(FIRST_HOUR_MS) == "20171231T23Z"
    assert hour_name(FIRST_HOUR_MS) < hour_name(FIRST_HOUR_MS + 3_600_000) == "20180101T00Z"


def test_the_newest_snapshot_of_each_tier_is_found_by_tower_version(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    workshop.cut(rows_of(20), 1)
    newest = workshop.cut(rows_of(20), 2)
    batch = workshop.cut(rows_of(5), 1, "batch")
    workshop.cut(rows_of(20, versions=(TOWER_B,)), 3)
    workshop.cut(rows_of(20, versions=(TOWER_A, TOWER_B)), 4)
    found = newest_of_tiers(workshop.snapshots, TOWER_A)
    assert found == {"realtime": newest, "batch": batch}


def test_of_one_hour_the_cut_that_covers_more_is_the_newer(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    more = workshop.cut(rows_of(20), 1, offsets={"pin.embedded.v1": {0: 10, 1: 21}})
    workshop.cut(rows_of(20), 1, offsets={"pin.embedded.v1": {0: 10, 1: 20}})
    assert newest_of_tiers(workshop.snapshots, TOWER_A) == {"realtime": more}


def test_a_damaged_manifest_hides_no_other_snapshot(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    good = workshop.cut(rows_of(20), 1)
    damaged = workshop.cut(rows_of(21), 2)
    (workshop.snapshots / damaged.snapshot_id / "manifest.json").write_bytes(b"{}")
    assert newest_of_tiers(workshop.snapshots, TOWER_A) == {"realtime": good}
    assert readable_snapshots(workshop.snapshots) == [good]


def test_a_file_of_a_snapshot_can_be_read_by_another_user(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    directory = workshop.snapshots / workshop.cut(rows_of(3)).snapshot_id
    assert {path.name: path.stat().st_mode & 0o044 for path in directory.iterdir()} == dict.fromkeys(
        [ATTRIBUTES_FILE, VECTORS, "READY", "manifest.json"], 0o044
    )
