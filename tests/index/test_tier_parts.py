"""A release of several tiers: one snapshot of each, every Pin in its own, one tower version in all."""

from pathlib import Path

import numpy as np
import pytest

from index.builder import BuildPolicy
from index.loading import load_index
from index.row_files import VECTORS, SnapshotRows
from index.tier_parts import behind, least
from schemas.errors import Refused
from schemas.manifests import SnapshotManifest
from schemas.tiers import Tier, Tiers
from tests.index.builders import (
    FIRST_HOUR_MS,
    HOUR_MS,
    REGISTRY,
    TIERS,
    TOWER_A,
    TOWER_B,
    Workshop,
    rows_of,
    split_by_tier,
)

POLICY = BuildPolicy(tiers=TIERS)
ROWS = rows_of(200)
SLICES = split_by_tier(ROWS)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def _both(workshop: Workshop, realtime_hour: int = 3, batch_hour: int = 1) -> list[SnapshotManifest]:
    return [
        workshop.cut(SLICES["batch"], batch_hour, "batch", {"pin.features.v1": {0: 7, 1: 9}}),
        workshop.cut(SLICES["realtime"], realtime_hour, "realtime", {"pin.embedded.v1": {0: 4, 1: 8}}),
    ]


def _refused(workshop: Workshop, cuts: list[SnapshotManifest], policy: BuildPolicy = POLICY) -> Refused:
    with pytest.raises(Refused) as caught:
        workshop.join(cuts, policy)
    assert workshop.releases.list() == []
    return caught.value


def test_a_release_of_two_tiers_holds_every_pin_once_by_its_id(workshop: Workshop) -> None:
    manifest = workshop.join(_both(workshop), POLICY)
    index = load_index(workshop.releases, manifest.release_id, registry_hash=REGISTRY)
    assert np.array_equal(index.attributes, ROWS.attributes)
    assert np.array_equal(index.vectors, ROWS.vectors)
    assert index.titles.to_pylist() == ROWS.titles.to_pylist()
    assert index.versions == [TOWER_A]
    for row in (0, 99, 199):
        assert index.search(ROWS.vectors[row].astype(np.float32), 1)[1].tolist() == [row]


def test_the_manifest_says_what_each_tier_gave_and_how_far_it_reaches(workshop: Workshop) -> None:
    batch, realtime = _both(workshop)
    manifest = workshop.join([batch, realtime], POLICY)
    assert manifest == workshop.releases.manifest(manifest.release_id)
    assert manifest.snapshot_id == f"{realtime.snapshot_id}+{batch.snapshot_id}"
    assert (manifest.tier, manifest.hour_ms) == ("realtime", FIRST_HOUR_MS + 3 * HOUR_MS)
    assert manifest.offsets == {"pin.embedded.v1": {0: 4, 1: 8}, "pin.features.v1": {0: 7, 1: 9}}
    part = manifest.tiers["batch"]
    assert (part.policy, part.snapshot_id, part.rows) == ("batch", batch.snapshot_id, len(SLICES["batch"]))
    assert part.versions == {TOWER_A: len(SLICES["batch"])}
    assert part.newest_ingest_ms == batch.newest_ingest_ms
    assert manifest.newest_ingest_ms == max(batch.newest_ingest_ms, realtime.newest_ingest_ms)
    assert behind(manifest.tiers) == {"realtime": "20180101T02Z", "batch": "20180101T00Z (2 h behind)"}


def test_the_order_in_which_snapshots_are_named_does_not_matter(workshop: Workshop) -> None:
    cuts = _both(workshop)
    assert workshop.join(cuts, POLICY) == workshop.join(cuts[::-1], POLICY)


def test_pain_3_one_tier_of_another_version_is_refused_with_the_histogram_of_each_tier(
    workshop: Workshop,
) -> None:
    old = SLICES["batch"]
    stale = SnapshotRows(old.attributes, old.vectors, [TOWER_B], old.version_code, old.titles)
    cuts = [workshop.cut(stale, 1, "batch"), workshop.cut(SLICES["realtime"], 3)]
    refused = _refused(workshop, cuts)
    assert refused.code == "mixed_versions"
    counts = len(SLICES["batch"]), len(SLICES["realtime"])
    assert refused.came == f"batch: {counts[0]} of {TOWER_B}; realtime: {counts[1]} of {TOWER_A}"


def test_a_pin_in_the_snapshots_of_two_tiers_is_refused_by_name(workshop: Workshop) -> None:
    both = rows_of(200).take(np.sort(np.append(np.flatnonzero(_in(SLICES["batch"])), _first("realtime"))))
    cuts = [workshop.cut(both, 1, "batch"), workshop.cut(SLICES["realtime"], 3)]
    refused = _refused(workshop, cuts)
    assert refused.code == "pin_in_two_tiers"
    pin = SLICES["realtime"].attributes["pin_id"][0]
    assert refused.came == f"1 in both batch and realtime, Pin {pin} among them"


def _in(rows: SnapshotRows) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.isin(ROWS.attributes["pin_id"], rows.attributes["pin_id"])


def _first(tier: str) -> int:
    return int(np.flatnonzero(_in(SLICES[tier]))[0])


def test_a_pin_in_a_tier_that_it_does_not_belong_to_is_refused(workshop: Workshop) -> None:
    stray = ROWS.take(np.flatnonzero(_in(SLICES["batch"]))[1:])
    cuts = [
        workshop.cut(stray, 1, "batch"),
        workshop.cut(ROWS.take(np.append(np.flatnonzero(_in(SLICES["realtime"])), _first("batch"))), 3),
    ]
    refused = _refused(workshop, cuts)
    assert refused.code == "wrong_tier"
    assert f"Pin {SLICES['batch'].attributes['pin_id'][0]} among them" in refused.came


def test_a_declared_tier_without_a_snapshot_is_missed_by_name(workshop: Workshop) -> None:
    refused = _refused(workshop, _both(workshop)[1:])
    assert (refused.code, refused.came) == ("missing_tier", "none of tier batch")


def test_a_tier_without_pins_is_refused_by_name(workshop: Workshop) -> None:
    cuts = [workshop.cut(rows_of(0), 1, "batch"), workshop.cut(SLICES["realtime"], 3)]
    refused = _refused(workshop, cuts)
    assert refused.code == "empty_tier"
    assert "tier batch" in refused.expected


def test_two_snapshots_of_one_tier_are_not_joined_by_mistake(workshop: Workshop) -> None:
    batch, realtime = _both(workshop)
    other = workshop.cut(SLICES["batch"], 2, "batch")
    assert _refused(workshop, [batch, realtime, other]).code == "two_snapshots_of_a_tier"


def test_a_tier_that_nobody_declared_is_refused(workshop: Workshop) -> None:
    cuts = [*_both(workshop), workshop.cut(rows_of(5, seed=3), 1, "cold")]
    assert _refused(workshop, cuts).code == "unknown_tier"


def test_one_tier_shares_its_snapshot_s_files(workshop: Workshop) -> None:
    cut = workshop.cut(ROWS)
    release = workshop.join([cut], BuildPolicy(tiers=Tiers(tiers=[Tier(name="realtime")])))
    directory = workshop.releases.directory(release.release_id)
    assert (directory / VECTORS).stat().st_ino == (
        workshop.snapshots / cut.snapshot_id / VECTORS
    ).stat().st_ino
    assert [entry for entry in release.files if entry in cut.files] == cut.files
    assert release.tiers["realtime"].rows == 200


def test_no_tier_goes_back_though_the_release_as_a_whole_is_newer(workshop: Workshop) -> None:
    first = workshop.join(_both(workshop, realtime_hour=3, batch_hour=2), POLICY)
    late = workshop.join(_both(workshop, realtime_hour=4, batch_hour=1), POLICY)
    workshop.releases.publish(first.release_id, actor="test", reason="hourly")
    with pytest.raises(Refused, match="tier batch of hour 20180101T01Z or later") as caught:
        workshop.releases.publish(late.release_id, actor="test", reason="hourly")
    assert caught.value.code == "stale_release"
    with pytest.raises(Refused, match="stale_release"):
        workshop.join(_both(workshop, realtime_hour=5, batch_hour=1), POLICY)
    assert workshop.releases.current() == first.release_id


def test_a_tier_that_shrinks_is_seen_behind_the_others(workshop: Workshop) -> None:
    first = workshop.join(_both(workshop), POLICY)
    workshop.releases.publish(first.release_id, actor="test", reason="hourly")
    few = SLICES["realtime"].take(np.arange(3))
    with pytest.raises(Refused, match="rows of tier realtime") as caught:
        workshop.join([workshop.cut(SLICES["batch"], 1, "batch"), workshop.cut(few, 4)], POLICY)
    assert caught.value.code == "too_few_rows"


def test_an_inventory_that_is_split_into_tiers_is_not_taken_for_a_shrunken_one(workshop: Workshop) -> None:
    whole = workshop.join([workshop.cut(ROWS, 0)])
    workshop.releases.publish(whole.release_id, actor="test", reason="hourly")
    split = workshop.join(_both(workshop), POLICY)
    assert split.tiers["realtime"].rows < 0.5 * whole.tiers["realtime"].rows
    workshop.releases.publish(split.release_id, actor="test", reason="tiers.json")
    assert workshop.releases.current() == split.release_id


def test_of_each_partition_the_least_offset_is_covered() -> None:
    merged = least([{"a": {0: 5, 1: 9}}, {"a": {0: 7}, "b": {0: 1}}, {}])
    assert merged == {"a": {0: 5, 1: 9}, "b": {0: 1}}
