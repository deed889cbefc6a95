"""The union of snapshots of any versions: one row a Pin, the newest; and who may serve it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.builder import BuildPolicy
from index.loading import load_index
from index.releases import ReleaseStore
from index.row_files import SnapshotRows
from index.union import newest_of_each_pin, stacked
from schemas.errors import Refused
from schemas.manifests import ReleaseManifest
from schemas.tiers import VersionPolicy
from tests.index.builders import REGISTRY, TOWER_A, TOWER_B, Workshop, reseal, rows_of

TOLERATE = BuildPolicy(version_policy="tolerate")


def _rows(version: str, revisions: list[int], first_pin: int = 1000, dimension: int = 8) -> SnapshotRows:
    rows = rows_of(len(revisions), versions=(version,), seed=len(version), dimension=dimension)
    rows.attributes["pin_id"] = first_pin + np.arange(len(revisions))
    rows.attributes["changed_offset"] = revisions
    return rows


def test_the_newest_row_of_a_pin_wins_whatever_its_version() -> None:
    rows, source = stacked([_rows(TOWER_A, [5, 1, 7]), _rows(TOWER_B, [4, 3, 7], first_pin=1000)])
    union, kept = newest_of_each_pin(rows, source)
    assert union.attributes["pin_id"].tolist() == [1000, 1001, 1002]
    assert union.attributes["changed_offset"].tolist() == [5, 3, 7]
    # Of equals the later source.
    assert kept.tolist() == [0, 1, 1]
    assert union.histogram() == {TOWER_A: 1, TOWER_B: 2}


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=8), min_size=1, max_size=4)
)
def test_the_union_is_the_maximum_of_each_pin(parts: list[list[tuple[int, int]]]) -> None:
    made = []
    for pairs in parts:
        rows = _rows(TOWER_A, [revision for _, revision in pairs])
        rows.attributes["pin_id"] = [pin for pin, _ in pairs]
        made.append(rows)
    union, _ = newest_of_each_pin(*stacked(made))
    best: dict[int, int] = {}
    for pin, revision in (pair for pairs in parts for pair in pairs):
        best[pin] = max(revision, best.get(pin, 0))
    found = zip(union.attributes["pin_id"].tolist(), union.attributes["changed_offset"].tolist(), strict=True)
    assert list(found) == sorted(best.items())


def _mixed(workshop: Workshop) -> ReleaseManifest:
    old = workshop.cut(_rows(TOWER_B, [1, 9, 1, 9]), 1)
    new = workshop.cut(_rows(TOWER_A, [5, 5, 5]), 2)
    return workshop.join([old, new], TOLERATE)


def test_a_tolerate_release_counts_its_versions_per_tier(tmp_path: Path) -> None:
    manifest = _mixed(Workshop(tmp_path))
    assert manifest.version_policy == "tolerate"
    assert manifest.tiers["realtime"].versions == {TOWER_A: 2, TOWER_B: 2}
    mix = next(check for check in manifest.checks if check.name == "version_mix")
    assert mix.detail == f"2 of {TOWER_A}, 2 of {TOWER_B}"
    assert "one_tower_version" not in [check.name for check in manifest.checks]


def test_enforce_refuses_a_mixed_release_with_its_histogram_and_tolerate_loads_it(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    release = _mixed(workshop).release_id
    with pytest.raises(Refused) as caught:
        load_index(workshop.releases, release, registry_hash=REGISTRY)
    assert (caught.value.code, caught.value.came) == ("mixed_versions", f"2 of {TOWER_A}, 2 of {TOWER_B}")
    index = load_index(workshop.releases, release, registry_hash=REGISTRY, version_policy="tolerate")
    versions = [index.versions[code] for code in index.version_code]
    assert versions == [TOWER_A, TOWER_B, TOWER_A, TOWER_B]
    assert index.tower_version == TOWER_A


def test_a_mixed_release_goes_live_only_where_that_is_tolerated(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    release = _mixed(workshop).release_id
    with pytest.raises(Refused, match="mixed_versions"):
        workshop.releases.publish(release, actor="test", reason="try")
    assert workshop.releases.current() is None
    ReleaseStore(workshop.releases.root, version_policy="tolerate").publish(
        release, actor="t", reason="sweep"
    )
    assert workshop.releases.current() == release


def test_a_release_that_calls_itself_of_one_version_and_is_mixed_is_refused_by_both(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    release = _mixed(workshop).release_id
    reseal(workshop.releases.directory(release), lambda manifest: manifest.update(version_policy="enforce"))
    policies: list[VersionPolicy] = ["enforce", "tolerate"]
    for policy in policies:
        with pytest.raises(Refused, match="mixed_versions"):
            load_index(workshop.releases, release, registry_hash=REGISTRY, version_policy=policy)


def test_several_snapshots_are_never_united_without_being_asked_to(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    cuts = [workshop.cut(_rows(TOWER_B, [1, 2]), 1), workshop.cut(_rows(TOWER_A, [5, 5, 5]), 2)]
    with pytest.raises(Refused, match="two_snapshots_of_a_tier"):
        workshop.join(cuts)


def test_versions_of_unlike_dimension_cannot_be_united(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    cuts = [workshop.cut(_rows(TOWER_B, [1, 2], dimension=12), 1), workshop.cut(_rows(TOWER_A, [5]), 2)]
    with pytest.raises(Refused, match="wrong_dimension"):
        workshop.join(cuts, TOLERATE)


def test_one_part_is_not_copied() -> None:
    rows = rows_of(3)
    assert stacked([rows])[0] is rows
    assert stacked([replace(rows, versions=[TOWER_B])])[0].versions == [TOWER_B]
