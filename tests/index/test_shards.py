"""Shards of a release: together they are the whole, each by itself is proved and a part of the memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.shard_slices import Shard
from index.loading import LoadedIndex, load_index, load_shard
from schemas.errors import Refused
from tests.index.builders import REGISTRY, TOWER_A, Workshop, rows_of

KINDS = pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
SHARDS = [Shard(number, 3) for number in (1, 2, 3)]


def _loaded(tmp_path: Path, kind: str) -> tuple[LoadedIndex, list[LoadedIndex]]:
    workshop = Workshop(tmp_path)
    release = workshop.build(rows_of(600), kind=kind)  # type: ignore[arg-type]  # a parametrised literal
    whole = load_index(workshop.releases, release.release_id, registry_hash=REGISTRY)
    return whole, [
        load_shard(workshop.releases, release.release_id, shard, registry_hash=REGISTRY) for shard in SHARDS
    ]


@KINDS
def test_the_shards_together_are_the_release_and_no_row_is_in_two(tmp_path: Path, kind: str) -> None:
    whole, parts = _loaded(tmp_path, kind)
    pins = np.concatenate([part.attributes["pin_id"] for part in parts])

    assert sorted(pins.tolist()) == whole.attributes["pin_id"].tolist()
    for shard, part in zip(SHARDS, parts, strict=True):
        assert shard.holds(part.attributes["pin_id"]).all()
        rows = np.searchsorted(whole.attributes["pin_id"], part.attributes["pin_id"])
        assert np.array_equal(part.attributes, whole.attributes[rows])
        assert np.array_equal(part.vectors, whole.vectors[rows])
        assert part.titles.to_pylist() == whole.titles.take(rows).to_pylist()
        assert (len(part), part.tower_version, set(part.versions)) == (len(rows), TOWER_A, {TOWER_A})


@KINDS
def test_the_best_of_all_shards_are_the_best_of_an_exact_scan(tmp_path: Path, kind: str) -> None:
    whole, parts = _loaded(tmp_path, kind)
    query = whole.vectors[5].astype(np.float32)
    exact = np.sort(whole.vectors.astype(np.float32) @ query)[::-1][:10]

    found = np.concatenate([part.search(query, 600)[0] for part in parts])

    assert len(found) == 600
    assert np.sort(found)[::-1][:10] == pytest.approx(exact, abs=1e-5)


def test_nothing_of_the_whole_is_kept_in_memory_or_mapped(tmp_path: Path) -> None:
    _, parts = _loaded(tmp_path, "ivf")
    for part in parts:
        matrix: Any = part.vectors
        assert matrix.nbytes == len(part) * matrix.shape[1] * 2
        while isinstance(matrix, np.ndarray):
            assert not isinstance(matrix, np.memmap) and matrix.nbytes <= part.vectors.nbytes
            matrix = matrix.base


def test_a_graph_is_not_cut_but_replaced_by_an_exact_scan(tmp_path: Path) -> None:
    whole, parts = _loaded(tmp_path, "hnsw")
    assert whole.manifest.index.kind == "hnsw"
    assert {part.manifest.index.kind for part in parts} == {"flat"}


def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    release = workshop.build(rows_of(1))
    loaded = [
        load_shard(workshop.releases, release.release_id, shard, registry_hash=REGISTRY) for shard in SHARDS
    ]
    assert sorted(len(part) for part in loaded) == [0, 0, 1]
    for part in loaded:
        part.warm()
        assert len(part.search(np.ones(part.manifest.index.dimension, np.float32), 5)[0]) == len(part)


@pytest.mark.parametrize("name", ["vectors.safetensors", "attributes.parquet"])
def test_a_damaged_file_is_refused_by_every_shard_wherever_the_damage_is(tmp_path: Path, name: str) -> None:
    workshop = Workshop(tmp_path)
    release = workshop.build(rows_of(100))
    path = workshop.releases.directory(release.release_id) / name
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.unlink()
    path.write_bytes(damaged)
    for shard in SHARDS:
        with pytest.raises(Refused, match="checksum"):
            load_shard(workshop.releases, release.release_id, shard, registry_hash=REGISTRY)
