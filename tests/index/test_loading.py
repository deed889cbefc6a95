"""A loaded release is the snapshot it was built from, whole, and lets go of it when closed."""

import gc
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from index.builder import build_release
from index.handle import Handle
from index.loading import LoadedIndex, load_index
from index.releases import ReleaseStore
from index.vector_index import pack
from schemas.errors import Refused
from tests.index.builders import REGISTRY, TOWER_A, Workshop, reseal, rows_of, tower_of

KINDS = pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])


def _loaded(tmp_path: Path, kind: str, count: int = 500) -> LoadedIndex:
    workshop = Workshop(tmp_path)
    release = workshop.build(rows_of(count), kind=kind)  # type: ignore[arg-type]  # a parametrised literal
    return load_index(workshop.releases, release.release_id, registry_hash=REGISTRY)


@KINDS
def test_row_numbers_mean_the_same_row_in_every_part(tmp_path: Path, kind: str) -> None:
    rows, loaded = rows_of(500), _loaded(tmp_path, kind)
    assert len(loaded) == 500
    assert loaded.tower_version == TOWER_A
    assert np.array_equal(loaded.vectors, rows.vectors)
    assert np.array_equal(loaded.attributes, rows.attributes)
    for row in range(0, 500, 50):
        dots, positions = loaded.search(rows.vectors[row].astype(np.float32), 1)
        assert positions.tolist() == [row]
        assert dots[0] == pytest.approx(1.0, abs=2e-3)
        assert loaded.titles[row].as_py() == f"Pin {loaded.attributes['pin_id'][row]}"


@KINDS
def test_a_filter_by_attributes_holds(tmp_path: Path, kind: str) -> None:
    loaded = _loaded(tmp_path, kind)
    allowed = pack(loaded.attributes["pin_id"] % 10 == 3)
    _, positions = loaded.search(loaded.vectors[0].astype(np.float32), 50, allowed)
    assert sorted(loaded.attributes["pin_id"][positions].tolist()) == list(range(1003, 1500, 10))


@KINDS
def test_warming_searches_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    loaded = _loaded(tmp_path, kind)
    before = loaded.search(loaded.vectors[7].astype(np.float32), 20)
    loaded.warm()
    after = loaded.search(loaded.vectors[7].astype(np.float32), 20)
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])


def test_one_row_can_be_served_and_warmed(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path, "flat", count=1)
    loaded.warm()
    assert loaded.search(loaded.vectors[0].astype(np.float32), 100)[1].tolist() == [0]


@KINDS
def test_closing_frees_the_index_and_leaves_borrowed_arrays_valid(tmp_path: Path, kind: str) -> None:
    loaded = _loaded(tmp_path, kind)
    index = weakref.ref(loaded._index)
    borrowed, expected = loaded.vectors[3:5], loaded.vectors[3:5].copy()
    loaded.close()
    loaded.close()
    gc.collect()
    assert index() is None
    assert np.array_equal(borrowed, expected)
    with pytest.raises(RuntimeError, match="closed"):
        loaded.search(np.zeros(8, np.float32), 1)


def test_the_scored_vectors_are_the_index_s_own_memory(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path, "flat")
    assert not loaded.vectors.flags.owndata
    assert not loaded.vectors.flags.writeable


def test_pain_1_a_lease_keeps_a_swapped_out_index_searchable(tmp_path: Path) -> None:
    old, new = _loaded(tmp_path / "1", "flat"), _loaded(tmp_path / "2", "ivf")
    query = new.vectors[0].astype(np.float32)
    handle = Handle(old)
    with handle.lease() as index:
        handle.swap(new)
        assert len(index.search(query, 5)[0]) == 5
    with pytest.raises(RuntimeError, match="closed"):
        old.search(query, 5)
    with handle.lease() as index:
        assert index is new


def test_a_manifest_with_a_failed_check_is_refused(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    release = workshop.build(rows_of(20)).release_id
    failed = {"name": "recall", "ok": False, "detail": "0.2"}
    reseal(workshop.releases.directory(release), lambda document: document.update(checks=[failed]))
    with pytest.raises(Refused, match="failed_check"):
        load_index(workshop.releases, release, registry_hash=REGISTRY)


def test_a_release_of_another_registry_is_refused_before_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Workshop(tmp_path)
    release = workshop.build(rows_of(20)).release_id
    fetched: list[str] = []
    monkeypatch.setattr(workshop.releases, "fetch", fetched.append)
    with pytest.raises(Refused, match="registry_mismatch"):
        load_index(workshop.releases, release, registry_hash="0" * 64)
    assert fetched == []


def test_a_release_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not_ready"):
        load_index(Workshop(tmp_path).releases, "20171231T23Z-none", registry_hash=REGISTRY)


FORMAT_1 = Path(__file__).parents[1] / "fixtures" / "format1"


def test_a_release_of_format_1_still_loads_and_answers(tmp_path: Path) -> None:
    shutil.copytree(FORMAT_1 / "releases", tmp_path / "releases")
    store = ReleaseStore(tmp_path / "releases")
    (release,) = store.list()
    manifest = store.manifest(release)
    assert (manifest.format, manifest.tiers, manifest.version_policy) == (1, {}, "enforce")
    index = load_index(store, release, registry_hash=REGISTRY)
    rows = rows_of(12)
    assert np.array_equal(index.attributes, rows.attributes)
    assert np.array_equal(index.vectors, rows.vectors)
    assert index.search(rows.vectors[4].astype(np.float32), 1)[1].tolist() == [4]
    store.publish(release, actor="test", reason="from before")
    assert store.current() == release


def test_a_snapshot_of_format_1_can_still_be_built_and_replaces_a_release_of_format_1(tmp_path: Path) -> None:
    shutil.copytree(FORMAT_1, tmp_path, dirs_exist_ok=True)
    workshop = Workshop(tmp_path)
    (old,) = workshop.releases.list()
    workshop.releases.publish(old, actor="test", reason="from before")
    (snapshot,) = workshop.snapshots.iterdir()
    new = build_release(
        workshop.releases, workshop.snapshots, snapshot.name, tower=tower_of(), registry_hash=REGISTRY
    )
    assert (new.format, list(new.tiers), new.index.rows) == (2, ["realtime"], 12)
    workshop.releases.publish(new.release_id, actor="test", reason="of today")
    assert workshop.releases.current() == new.release_id


def test_pain_4_readers_see_the_old_release_or_the_new_one_while_it_is_published_and_taken_back(
    tmp_path: Path,
) -> None:
    workshop = Workshop(tmp_path)
    store = workshop.releases
    old = workshop.published(rows_of(50), 1).release_id
    new = workshop.build(rows_of(60, seed=2), 2).release_id
    rows = {old: 50, new: 60}
    seen: list[tuple[str, int]] = []
    over = Event()

    def read() -> None:
        while not over.is_set():
            current = store.current()
            assert current is not None
            seen.append((current, len(load_index(store, current, registry_hash=REGISTRY))))

    with ThreadPoolExecutor(2) as readers:
        running = [readers.submit(read) for _ in range(2)]
        try:
            for _ in range(20):
                store.publish(new, actor="test", reason="hourly", expected_current=old)
                store.rollback(actor="test", reason="worse", expected_current=new)
        finally:
            over.set()
        for one in running:
            one.result()
    assert seen
    assert all(rows[release] == count for release, count in seen)
    assert [move.action for move in store.audit()] == ["publish", *["publish", "rollback"] * 20]
