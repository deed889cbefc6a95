"""What `release diff` says: towers, tiers, Pins, attributes and checks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.differences import differences, pin_differences
from schemas.errors import Refused
from tests.index.builders import TOWER_A, TOWER_B, Workshop, rows_of, tower_of, unshare


def test_pins_that_came_went_and_changed_are_counted() -> None:
    one = rows_of(10)
    two = one.take(np.arange(2, 10))
    attributes, vectors = two.attributes.copy(), two.vectors.copy()
    attributes["bid_micros"][:3] += 1
    attributes["status"][2:4] = 2
    attributes["ingested_at_ms"] += 5  # a row that came again is no change of the Pin
    vectors[6] = -vectors[6]
    titles = pa.array(["new", *two.titles.to_pylist()[1:]], pa.string())
    two = replace(two, attributes=attributes, vectors=vectors, titles=titles)
    found = pin_differences(one, two)
    assert (found.added, found.removed, found.kept) == (0, 2, 8)
    assert (found.reembedded, found.other_version, found.changed) == (1, 0, 4)
    assert found.attributes_changed == {"bid_micros": 3, "status": 2, "title": 1}
    back = pin_differences(two, one)
    assert (back.added, back.removed) == (2, 0)


def test_releases_of_two_towers_differ_in_all_that_the_tower_decides(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    one = workshop.build(rows_of(20), 1)
    two = workshop.build(rows_of(30, versions=(TOWER_B,), seed=2), 3, tower=tower_of(TOWER_B))
    found = differences(*(workshop.releases.directory(release.release_id) for release in (one, two)))
    assert found.manifest["tower_version"] == (TOWER_A, TOWER_B)
    assert found.manifest["index.rows"] == (20, 30)
    assert "calibration" not in found.manifest
    assert found.tiers["realtime"]["rows_delta"] == 10
    assert found.tiers["realtime"]["hours_moved"] == 2
    assert (found.pins.other_version, found.pins.added) == (20, 10)
    assert found.checks["one_tower_version"] == (f"all rows {TOWER_A}", f"all rows {TOWER_B}")
    assert found.as_json()["second"] == two.release_id


def test_a_release_differs_from_itself_in_nothing(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    directory = workshop.releases.directory(workshop.build(rows_of(20)).release_id)
    found = differences(directory, directory)
    assert (found.manifest, found.checks, found.pins.changed, found.pins.reembedded) == ({}, {}, 0, 0)


def test_a_damaged_release_is_not_compared(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    directory = workshop.releases.directory(workshop.build(rows_of(20)).release_id)
    unshare(directory)
    (directory / "vectors.safetensors").write_bytes(b"")
    with pytest.raises(Refused, match="wrong_size"):
        differences(directory, directory)


def test_releases_without_a_common_pin_can_be_compared() -> None:
    other = rows_of(3)
    other.attributes["pin_id"] += 50_000
    found = pin_differences(rows_of(3), other)
    assert (found.added, found.removed, found.kept, found.changed) == (3, 3, 0, 0)
