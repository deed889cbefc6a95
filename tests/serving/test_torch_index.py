"""What is the torch index's own; what every index promises is in tests/contracts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from index.loading import load_index
from index.vector_index import ExactIndex, pack
from schemas.errors import Refused
from serving.torch_index import TorchIndex, place
from tests.index.builders import REGISTRY, Workshop, rows_of, unit_vectors

ROWS, DIMENSION = 3_000, 64


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        TorchIndex(unit_vectors(4, DIMENSION), "cuda")
    assert refused.value.code == "no_device"


def test_rows_in_bf16_find_nearly_the_same_and_score_to_two_digits() -> None:
    vectors = unit_vectors(ROWS, DIMENSION)
    rounded, exact = TorchIndex(vectors, "cpu", "bf16"), ExactIndex(vectors)
    query = np.random.default_rng(4).standard_normal(DIMENSION).astype(np.float32)
    dots, rows = rounded.search(query, 100, None)
    best_dots, best_rows = exact.search(query, 100, None)
    assert len(set(rows.tolist()) & set(best_rows.tolist())) >= 95
    np.testing.assert_allclose(dots, best_dots, atol=0.02)
    assert not np.array_equal(dots, best_dots)


def test_the_rows_are_the_index_s_own() -> None:
    vectors = unit_vectors(10, DIMENSION)
    index, query = TorchIndex(vectors, "cpu"), vectors[3].astype(np.float32)
    vectors[3] = 0
    assert index.search(query, 1, None)[1].tolist() == [3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_what_a_cpu_finds_among_a_million_rows() -> None:
    vectors = unit_vectors(1_000_000, DIMENSION)
    query = 10 * np.random.default_rng(5).standard_normal(DIMENSION).astype(np.float32)
    here, there = (TorchIndex(vectors, device).search(query, 1_000, None) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(here[0], there[0], rtol=1e-4)
    assert len(set(here[1].tolist()) & set(there[1].tolist())) >= 999


def test_a_release_searched_on_another_device_finds_what_its_own_index_finds(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    built = workshop.published(rows_of(400), kind="flat")
    index = load_index(workshop.releases, built.release_id, registry_hash=REGISTRY)
    query = np.random.default_rng(6).standard_normal((1, index.vectors.shape[1])).astype(np.float32)[0]
    allowed = pack(index.attributes["pin_id"] % 3 == 0)
    dots, rows = index.search(query, 20, allowed)
    place(index, "cpu:0")
    there, their_rows = index.search(query, 20, allowed)
    np.testing.assert_allclose(there, dots, rtol=1e-5)
    assert their_rows.tolist() == rows.tolist()
    with pytest.raises(Refused, match="row_count"):
        index.searched_by(TorchIndex(index.vectors[:-1], "cpu"))
