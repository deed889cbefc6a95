"""What a build writes, measures and calls itself."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from index.builder import FLAT_UP_TO_ROWS, BuildPolicy, build_release, kind_for, lists_for
from index.contents import FILES
from index.loading import load_index
from index.release_contract import Releases
from index.snapshot_retention import retain_snapshots
from index.vector_index import ExactIndex
from schemas.errors import Refused
from schemas.manifests import Calibration
from tests.index.builders import REGISTRY, TIERS, TOWER_A, Workshop, rows_of, split_by_tier, tower_of


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_a_release_pins_together_what_it_was_made_from(workshop: Workshop) -> None:
    manifest = workshop.build(rows_of(30))
    assert (manifest.tower_version, manifest.index.tower_version) == (TOWER_A, TOWER_A)
    assert manifest.calibration == Calibration(slope=2.0, intercept=-1.0)
    assert manifest.registry_hash == REGISTRY
    assert manifest.offsets == {"pin.embedded.v1": {0: 10, 1: 20}}
    assert manifest.snapshot_id == next(workshop.snapshots.iterdir()).name
    assert (manifest.index.rows, manifest.index.dimension, manifest.index.kind) == (30, 8, "flat")


def test_every_check_that_passed_is_in_the_manifest(workshop: Workshop) -> None:
    manifest = workshop.build(rows_of(30))
    assert [check.name for check in manifest.checks] == [
        "complete",
        "not_empty",
        "one_tower_version",
        "dimension",
        "pin_inputs",
        "not_stale",
        "enough_rows",
        "unique_pins",
        "finite",
        "unit_length",
        "registry",
        "recall",
    ]
    assert all(check.ok for check in manifest.checks)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_building_the_same_again_gives_the_same_release(tmp_path: Path, kind: str) -> None:
    first, second = Workshop(tmp_path / "1"), Workshop(tmp_path / "2")
    one = first.build(rows_of(400), kind=kind)  # type: ignore[arg-type]  # a parametrised literal
    two = second.build(rows_of(400), kind=kind)  # type: ignore[arg-type]  # a parametrised literal
    assert one == two
    assert first.build(rows_of(400), kind=kind) == one  # type: ignore[arg-type]  # a parametrised literal
    assert first.releases.list() == [one.release_id]
    assert tuple(entry.name for entry in one.files) == FILES[one.index.kind]


def test_a_release_that_is_there_but_damaged_is_not_passed_off_as_built(workshop: Workshop) -> None:
    release = workshop.build(rows_of(30)).release_id
    (workshop.releases.directory(release) / "attributes.parquet").unlink()
    with pytest.raises(Refused, match="missing_file"):
        workshop.build(rows_of(30))


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_recall_is_measured_and_recorded(workshop: Workshop, kind: str) -> None:
    policy = BuildPolicy(min_recall=0.98, recall_queries=50)
    manifest = workshop.build(rows_of(2000), kind=kind, policy=policy)  # type: ignore[arg-type]  # a literal
    loaded = load_index(workshop.releases, manifest.release_id, registry_hash=REGISTRY)
    exact = ExactIndex(loaded.vectors)
    queries = loaded.vectors[::40].astype(np.float32)
    shared = [
        len(set(loaded.search(q, 100)[1].tolist()) & set(exact.search(q, 100, None)[1].tolist()))
        for q in queries
    ]
    assert manifest.index.parameters["recall_at_100_ppm"] >= 980_000
    assert np.mean(shared) / 100 >= 0.95  # other queries of the same kind, so a little room


def test_more_recall_is_bought_with_more_effort(workshop: Workshop) -> None:
    low = workshop.build(rows_of(2000), kind="ivf", policy=BuildPolicy(min_recall=0.5))
    high = workshop.build(rows_of(2000), kind="ivf", policy=BuildPolicy(min_recall=1.0))
    assert low.index.parameters["nprobe"] < high.index.parameters["nprobe"] <= high.index.parameters["nlist"]
    assert high.index.parameters["recall_at_100_ppm"] == 1_000_000


def test_a_recall_that_cannot_be_had_is_refused_and_leaves_nothing_behind(workshop: Workshop) -> None:
    with pytest.raises(Refused, match="low_recall"):
        workshop.build(rows_of(300), kind="ivf", policy=BuildPolicy(min_recall=1.1))
    assert list(workshop.releases.root.iterdir()) == []


def test_auto_scans_while_that_is_quick_enough() -> None:
    assert kind_for(1) == kind_for(FLAT_UP_TO_ROWS) == "flat"
    assert kind_for(FLAT_UP_TO_ROWS + 1) == "ivf"


def test_lists_grow_with_the_root_of_the_rows() -> None:
    assert [lists_for(rows) for rows in (1, 100, 10_000, 1_000_000)] == [1, 16, 256, 2048]
    assert lists_for(10**13) == 65_535


def test_a_tower_that_does_not_normalise_may_have_vectors_of_any_length(workshop: Workshop) -> None:
    rows = rows_of(30)
    rows.vectors[:] *= 3
    tower = tower_of().model_copy(update={"normalised": False})
    assert "unit_length" not in [check.name for check in workshop.build(rows, tower=tower).checks]


def test_a_snapshot_cut_for_other_inputs_is_refused(workshop: Workshop) -> None:
    tower = tower_of().model_copy(update={"pin_inputs": ["brand"]})
    with pytest.raises(Refused, match="other_inputs"):
        workshop.build(rows_of(30), tower=tower)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_release_rebuilt_from_a_retained_snapshot_is_the_same_byte_for_byte(
    tmp_path: Path, kind: str
) -> None:
    workshop = Workshop(tmp_path)
    slices = split_by_tier(rows_of(400))
    old = [workshop.cut(slices["realtime"], 1), workshop.cut(slices["batch"], 0, "batch")]
    for hour in (2, 3):
        workshop.cut(slices["realtime"], hour)
    policy = BuildPolicy(tiers=TIERS)

    def build(releases: Releases) -> dict[str, bytes]:
        built = build_release(
            releases,
            workshop.snapshots,
            [one.snapshot_id for one in old],
            tower=tower_of(),
            registry_hash=REGISTRY,
            kind=kind,  # type: ignore[arg-type]  # a parametrised literal
            policy=policy,
        )
        return {path.name: path.read_bytes() for path in releases.directory(built.release_id).iterdir()}

    first = build(workshop.releases)
    shutil.rmtree(workshop.releases.root)
    retain_snapshots(workshop.snapshots, "realtime", 3)
    assert build(workshop.releases) == first


def test_a_snapshot_that_is_cleared_away_during_the_build_is_missed_by_name(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: Path, target: Path) -> None:
        raise FileNotFoundError(target)

    monkeypatch.setattr(Path, "hardlink_to", gone)
    with pytest.raises(Refused, match="missing_file"):
        workshop.build(rows_of(30))
    assert workshop.releases.list() == []


def test_where_files_cannot_be_shared_they_are_copied_and_hashed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_device(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    shared = workshop.build(rows_of(30))
    shutil.rmtree(workshop.releases.root)
    monkeypatch.setattr(Path, "hardlink_to", other_device)
    assert workshop.build(rows_of(30)) == shared
