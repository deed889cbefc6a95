"""Twelve kinds of bad release. Each is refused by name, CURRENT stays, and the old one keeps serving."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from index.builder import BuildPolicy, build_release
from index.contents import LISTS, TRAINED, read_release, write_lists
from index.handle import Handle
from index.loading import LoadedIndex, load_index
from index.row_files import SnapshotRows, write_attributes, write_vectors
from schemas.artefacts import READY
from schemas.errors import Refused
from tests.index.builders import (
    OTHER_REGISTRY,
    REGISTRY,
    TIERS,
    TOWER_A,
    TOWER_B,
    Workshop,
    reseal,
    rows_of,
    split_by_tier,
    tower_of,
    unshare,
)

ROWS = 100
SLICES = split_by_tier(rows_of(ROWS))


@dataclass
class Serving:
    """A server on release one, and what is about to come in."""

    workshop: Workshop
    live: str
    loaded: LoadedIndex
    handle: Handle[LoadedIndex]

    def roll_out(self, release_id: str, registry_hash: str = REGISTRY) -> None:
        """What a publisher and then a server do, in order; each has to be safe alone."""
        self.workshop.releases.publish(release_id, actor="test", reason="try", registry_hash=registry_hash)
        self.handle.swap(load_index(self.workshop.releases, release_id, registry_hash=registry_hash))

    def load_only(self, release_id: str, registry_hash: str = REGISTRY) -> None:
        """A server that somebody pointed at the release past the publisher."""
        self.handle.swap(load_index(self.workshop.releases, release_id, registry_hash=registry_hash))


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    workshop = Workshop(tmp_path)
    live = workshop.published(rows_of(ROWS), hour=1).release_id
    loaded = load_index(workshop.releases, live, registry_hash=REGISTRY)
    return Serving(workshop, live, loaded, Handle(loaded))


def _refused(serving: Serving, code: str, attempt: Callable[[], object]) -> Refused:
    """Run a bad attempt and prove that nothing but the refusal came of it."""
    before = serving.workshop.releases.audit()
    with pytest.raises(Refused) as caught:
        attempt()
    assert caught.value.code == code
    assert caught.value.expected
    assert caught.value.came
    assert caught.value.fix
    assert serving.workshop.releases.current() == serving.live
    assert serving.workshop.releases.audit() == before
    assert serving.handle.generation == 1
    with serving.handle.lease() as index:
        assert index is serving.loaded
        assert len(index.search(index.vectors[3].astype(np.float32), 5)[0]) == 5
    return caught.value


def _with(rows: SnapshotRows, row: int, value: float) -> SnapshotRows:
    vectors = rows.vectors.copy()
    vectors[row, 2] = value
    return replace(rows, vectors=vectors)


def _twice(rows: SnapshotRows) -> SnapshotRows:
    attributes = rows.attributes.copy()
    attributes["pin_id"][1] = attributes["pin_id"][0]
    return replace(rows, attributes=attributes)


@pytest.mark.parametrize(
    ("code", "rows", "hour"),
    [
        pytest.param("empty_release", rows_of(0), 2, id="empty"),
        pytest.param("too_few_rows", rows_of(ROWS // 2 - 1), 2, id="short"),
        pytest.param("mixed_versions", rows_of(ROWS, versions=(TOWER_A, TOWER_B)), 2, id="mixed"),
        pytest.param("wrong_tower", rows_of(ROWS, versions=(TOWER_B,)), 2, id="other-tower"),
        pytest.param("wrong_dimension", rows_of(ROWS, dimension=12), 2, id="dimension"),
        pytest.param("not_finite", _with(rows_of(ROWS), 40, float("nan")), 2, id="nan"),
        pytest.param("not_finite", _with(rows_of(ROWS), ROWS - 1, float("-inf")), 2, id="inf"),
        pytest.param("not_unit_length", _with(rows_of(ROWS), 40, 3.0), 2, id="length"),
        pytest.param("stale_release", rows_of(ROWS), 0, id="stale"),
        pytest.param("duplicate_pins", _twice(rows_of(ROWS)), 2, id="duplicates"),
    ],
)
def test_a_bad_snapshot_is_refused_at_the_build(
    serving: Serving, code: str, rows: SnapshotRows, hour: int
) -> None:
    _refused(serving, code, lambda: serving.workshop.build(rows, hour))
    assert serving.workshop.releases.list() == [serving.live]


def test_a_mixed_snapshot_is_refused_with_its_version_histogram(serving: Serving) -> None:
    rows = rows_of(90, versions=(TOWER_A, TOWER_B, TOWER_A))
    refusal = _refused(serving, "mixed_versions", lambda: serving.workshop.build(rows, 2))
    assert refusal.came == f"60 of {TOWER_A}, 30 of {TOWER_B}"


def test_half_of_the_live_rows_is_just_enough(serving: Serving) -> None:
    assert serving.workshop.build(rows_of(ROWS // 2), 2).index.rows == ROWS // 2


def test_a_tower_of_another_registry_is_refused_at_the_build(serving: Serving) -> None:
    tower = tower_of(registry_hash=OTHER_REGISTRY)
    _refused(serving, "registry_mismatch", lambda: serving.workshop.build(rows_of(ROWS), 2, tower=tower))


def _rewrite(rows: SnapshotRows) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        write_vectors(directory, rows.vectors)
        write_attributes(directory, rows)
        reseal(directory)

    return damage


def _manifest(*path: str, value: object) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        def update(document: dict[str, object]) -> None:
            inner = document
            for key in path[:-1]:
                inner = inner[key]  # type: ignore[assignment]  # a JSON document of known shape
            inner[path[-1]] = value

        reseal(directory, update)

    return damage


def _remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def _flip(name: str, position: int) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        content = bytearray((directory / name).read_bytes())
        content[position] ^= 1
        (directory / name).write_bytes(content)

    return damage


def _cut_off(directory: Path) -> None:
    path = directory / "vectors.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _vectors_only(directory: Path) -> None:
    write_vectors(directory, rows_of(ROWS - 1).vectors)
    reseal(directory)


def _forget_attributes(directory: Path) -> None:
    document = json.loads((directory / "manifest.json").read_text())
    kept = [entry for entry in document["files"] if entry["name"] != "attributes.parquet"]
    reseal(directory, lambda manifest: manifest.update(files=kept))


@pytest.mark.parametrize(
    ("code", "damage"),
    [
        pytest.param("empty_release", _rewrite(rows_of(0)), id="empty"),
        pytest.param("row_count", _rewrite(rows_of(ROWS - 1)), id="short"),
        pytest.param("row_count", _vectors_only, id="vectors-of-other-rows"),
        pytest.param("mixed_versions", _rewrite(rows_of(ROWS, versions=(TOWER_A, TOWER_B))), id="mixed"),
        pytest.param("wrong_tower", _rewrite(rows_of(ROWS, versions=(TOWER_B,))), id="other-tower"),
        pytest.param("mixed_versions", _manifest("tower_version", value=TOWER_B), id="query-tower"),
        pytest.param("wrong_dimension", _rewrite(rows_of(ROWS, dimension=12)), id="dimension"),
        pytest.param("not_finite", _rewrite(_with(rows_of(ROWS), 40, float("nan"))), id="nan"),
        pytest.param("bad_manifest", _manifest("index", "metric", value="l2"), id="metric"),
        pytest.param("duplicate_pins", _rewrite(_twice(rows_of(ROWS))), id="duplicates"),
        pytest.param("missing_file", _remove("vectors.safetensors"), id="missing-vectors"),
        pytest.param("missing_file", _remove("attributes.parquet"), id="missing-attributes"),
        pytest.param("missing_file", _remove("manifest.json"), id="missing-manifest"),
        pytest.param("missing_file", _forget_attributes, id="unlisted-attributes"),
        pytest.param("not_ready", _remove(READY), id="missing-ready"),
        pytest.param("bad_checksum", _flip("vectors.safetensors", -1), id="checksum"),
        pytest.param("wrong_size", _cut_off, id="size"),
        pytest.param("future_format", _manifest("format", value=3), id="future"),
        pytest.param("bad_manifest", _manifest("colour", value="red"), id="unknown-key"),
        pytest.param("bad_manifest", _manifest("format", value=0), id="no-format"),
        pytest.param("wrong_id", _manifest("release_id", value="other"), id="renamed"),
        pytest.param("registry_mismatch", _manifest("registry_hash", value=OTHER_REGISTRY), id="registry"),
    ],
)
@pytest.mark.parametrize("how", [Serving.roll_out, Serving.load_only])
def test_a_release_that_was_changed_is_refused_at_publication_and_at_load(
    serving: Serving, code: str, damage: Callable[[Path], None], how: Callable[[Serving, str], None]
) -> None:
    candidate = serving.workshop.build(rows_of(ROWS, seed=2), 2)
    directory = serving.workshop.releases.directory(candidate.release_id)
    unshare(directory)
    damage(directory)
    _refused(serving, code, lambda: how(serving, candidate.release_id))


def _of_metric(directory: Path) -> None:
    index = faiss.read_index(str(directory / TRAINED))
    index.metric_type = faiss.METRIC_L2
    faiss.write_index(index, str(directory / TRAINED))
    reseal(directory)


def _of_dimension(directory: Path) -> None:
    other = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(16), 16, 4, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    )
    other.train(np.eye(16, dtype=np.float32))
    faiss.write_index(other, str(directory / TRAINED))
    reseal(directory)


def _with_rows_inside(directory: Path) -> None:
    index = faiss.read_index(str(directory / TRAINED))
    index.add(np.eye(8, dtype=np.float32))
    faiss.write_index(index, str(directory / TRAINED))
    reseal(directory)


def _of_kind(directory: Path) -> None:
    faiss.write_index(faiss.IndexFlatIP(8), str(directory / TRAINED))
    reseal(directory)


def _no_faiss(directory: Path) -> None:
    (directory / TRAINED).write_bytes(b"not an index")
    reseal(directory)


def _lists_of_other_rows(directory: Path) -> None:
    write_lists(directory, np.zeros(ROWS - 1, np.uint16))
    reseal(directory)


def _lists_beyond(directory: Path) -> None:
    write_lists(directory, np.full(ROWS, 65_000, np.uint16))
    reseal(directory)


@pytest.mark.parametrize(
    ("code", "damage"),
    [
        pytest.param("wrong_metric", _of_metric, id="metric"),
        pytest.param("wrong_dimension", _of_dimension, id="dimension"),
        pytest.param("row_count", _with_rows_inside, id="ntotal"),
        pytest.param("wrong_index_kind", _of_kind, id="kind"),
        pytest.param("unreadable_file", _no_faiss, id="garbage"),
        pytest.param("row_count", _lists_of_other_rows, id="lists-of-other-rows"),
        pytest.param("unreadable_file", _lists_beyond, id="lists-beyond"),
        pytest.param("missing_file", _remove(LISTS), id="missing-lists"),
        pytest.param("bad_manifest", _manifest("index", "parameters", value={}), id="no-nprobe"),
    ],
)
@pytest.mark.parametrize("how", [Serving.roll_out, Serving.load_only])
def test_an_ivf_file_that_is_not_what_its_manifest_says_is_refused_though_its_checksum_is_right(
    serving: Serving, code: str, damage: Callable[[Path], None], how: Callable[[Serving, str], None]
) -> None:
    candidate = serving.workshop.build(rows_of(ROWS, seed=2), 2, kind="ivf")
    directory = serving.workshop.releases.directory(candidate.release_id)
    unshare(directory)
    damage(directory)
    _refused(serving, code, lambda: how(serving, candidate.release_id))


def test_a_graph_over_other_rows_is_refused(serving: Serving) -> None:
    candidate = serving.workshop.build(rows_of(ROWS, seed=2), 2, kind="hnsw")
    other = serving.workshop.build(rows_of(ROWS + 1, seed=2), 2, kind="hnsw")
    directory = serving.workshop.releases.directory(candidate.release_id)
    graph = serving.workshop.releases.directory(other.release_id) / TRAINED
    (directory / TRAINED).write_bytes(graph.read_bytes())
    reseal(directory)
    _refused(serving, "row_count", lambda: serving.roll_out(candidate.release_id))


def test_a_release_that_went_stale_between_build_and_publication_is_refused(serving: Serving) -> None:
    late = serving.workshop.build(rows_of(ROWS, seed=2), 2)
    newer = serving.workshop.build(rows_of(ROWS, seed=3), 3)
    serving.workshop.releases.publish(newer.release_id, actor="test", reason="hourly")
    serving.live = newer.release_id
    _refused(serving, "stale_release", lambda: serving.roll_out(late.release_id))


def test_a_release_that_became_too_small_between_build_and_publication_is_refused(serving: Serving) -> None:
    small = serving.workshop.build(rows_of(ROWS, seed=2), 2)
    large = serving.workshop.build(rows_of(3 * ROWS, seed=3), 2)
    serving.workshop.releases.publish(large.release_id, actor="test", reason="hourly")
    serving.live = large.release_id
    _refused(serving, "too_few_rows", lambda: serving.roll_out(small.release_id))


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_a_flipped_bit_anywhere_in_any_file_is_seen(tmp_path: Path, kind: str) -> None:
    workshop = Workshop(tmp_path)
    release = workshop.build(rows_of(40), kind=kind)  # type: ignore[arg-type]  # a parametrised literal
    directory = workshop.releases.directory(release.release_id)
    unshare(directory)
    for path in sorted(directory.iterdir()):
        intact = path.read_bytes()
        for position in {*range(0, len(intact), 101), len(intact) - 1}:
            damaged = bytearray(intact)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            with pytest.raises(Refused) as caught:
                read_release(directory)
            assert caught.value.code == "bad_checksum", (path.name, position)
        path.write_bytes(intact)
    assert len(read_release(directory).rows) == 40


def _snapshot_of(damage: Callable[[Path], None]) -> Callable[[Workshop], str]:
    """A good snapshot of hour two, then damaged."""

    def made(workshop: Workshop) -> str:
        snapshot = workshop.cut(rows_of(ROWS), 2).snapshot_id
        unshare(workshop.snapshots / snapshot)
        damage(workshop.snapshots / snapshot)
        return snapshot

    return made


def _of_rows(rows: SnapshotRows, hour: int = 2) -> Callable[[Workshop], str]:
    return lambda workshop: workshop.cut(rows, hour).snapshot_id


def _from_the_future(directory: Path) -> None:
    reseal(directory, lambda manifest: manifest.update(format=99))


def _with_an_l2_index(workshop: Workshop) -> str:
    """A snapshot has no metric; the index that is built of it has, and is refused when it goes live."""
    release = workshop.build(rows_of(ROWS, seed=2), 2, kind="ivf").release_id
    unshare(workshop.releases.directory(release))
    _of_metric(workshop.releases.directory(release))
    return release


T8: dict[str, tuple[str, Callable[[Workshop], str]]] = {
    "empty": ("empty_release", _of_rows(rows_of(0))),
    "short": ("too_few_rows", _of_rows(rows_of(ROWS // 2 - 1))),
    "mixed version": ("mixed_versions", _of_rows(rows_of(ROWS, versions=(TOWER_A, TOWER_B)))),
    "wrong dimension": ("wrong_dimension", _of_rows(rows_of(ROWS, dimension=12))),
    "NaN": ("not_finite", _of_rows(_with(rows_of(ROWS), 40, float("nan")))),
    "wrong metric": ("wrong_metric", _with_an_l2_index),
    "stale": ("stale_release", _of_rows(rows_of(ROWS), 0)),
    "duplicate ids": ("duplicate_pins", _of_rows(_twice(rows_of(ROWS)))),
    "missing tier": ("missing_tier", lambda workshop: workshop.cut(SLICES["realtime"], 2).snapshot_id),
    "bad checksum": ("bad_checksum", _snapshot_of(_flip("vectors.safetensors", -1))),
    "future version": ("future_format", _snapshot_of(_from_the_future)),
    "wrong model": ("wrong_tower", _of_rows(rows_of(ROWS, versions=(TOWER_B,)))),
}
"""The twelve kinds of bad snapshot, each with the reason that it is refused for."""


@pytest.mark.parametrize("kind", T8)
def test_t8_each_of_the_twelve_kinds_of_bad_snapshot_is_refused_by_its_reason_and_the_old_one_serves(
    serving: Serving, kind: str
) -> None:
    code, make = T8[kind]
    snapshot = make(serving.workshop)
    built = serving.workshop.releases.list()
    policy = BuildPolicy(tiers=TIERS) if kind == "missing tier" else BuildPolicy()

    def roll_out() -> None:
        if kind == "wrong metric":
            serving.roll_out(snapshot)
        release = build_release(
            serving.workshop.releases,
            serving.workshop.snapshots,
            snapshot,
            tower=tower_of(),
            registry_hash=REGISTRY,
            policy=policy,
        )
        serving.roll_out(release.release_id)

    _refused(serving, code, roll_out)
    assert serving.workshop.releases.list() == built


def test_the_kinds_of_bad_snapshot_are_twelve_with_twelve_reasons() -> None:
    assert len(T8) == len({code for code, _ in T8.values()}) == 12
