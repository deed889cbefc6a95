"""Every `VectorIndex` keeps these promises; `ExactIndex` is the oracle."""

from collections.abc import Callable
from pathlib import Path
from threading import Thread

import faiss
import numpy as np
import pytest
import torch

from index.faiss_gpu import GpuFlatIndex, has_gpu
from index.faiss_index import (
    FlatIndex,
    build_hnsw,
    hnsw_index,
    ivf_index,
    read_trained,
    threads,
    train_ivf,
    write_trained,
)
from index.row_files import Matrix
from index.vector_index import ExactIndex, VectorIndex, pack
from serving.torch_index import TorchIndex
from tests.index.builders import unit_vectors

ROWS, DIMENSION = 700, 16
Make = Callable[[Matrix, Path], VectorIndex]


def _flat(vectors: Matrix, folder: Path) -> VectorIndex:
    return FlatIndex(vectors)


def _exact(vectors: Matrix, folder: Path) -> VectorIndex:
    return ExactIndex(vectors)


def _ivf(vectors: Matrix, folder: Path) -> VectorIndex:
    skeleton, lists = train_ivf(vectors, min(16, len(vectors)), seed=1)
    return ivf_index(skeleton, lists, vectors, nprobe=2)


def _hnsw(vectors: Matrix, folder: Path) -> VectorIndex:
    write_trained(build_hnsw(vectors), folder / "graph")
    return hnsw_index(read_trained(folder / "graph", "hnsw", vectors.shape[1]), vectors, ef_search=16)


def _torch(vectors: Matrix, folder: Path) -> VectorIndex:
    return TorchIndex(vectors, "cpu")


def _torch_on_cuda(vectors: Matrix, folder: Path) -> VectorIndex:
    return TorchIndex(vectors, "cuda")


def _flat_on_gpu(vectors: Matrix, folder: Path) -> VectorIndex:
    return GpuFlatIndex(vectors)


_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
_FAISS_GPU = pytest.mark.skipif(not has_gpu(), reason="needs a GPU and faiss-gpu (the [gpu] extra)")
_ON_GPU = (
    pytest.param(_torch_on_cuda, marks=(_CUDA, pytest.mark.gpu)),
    pytest.param(_flat_on_gpu, marks=(_FAISS_GPU, pytest.mark.gpu)),
)
ALL = pytest.mark.parametrize("make", [_exact, _flat, _ivf, _hnsw, _torch, *_ON_GPU])
EXACT = pytest.mark.parametrize("make", [_exact, _flat, _torch, *_ON_GPU])


def _queries(count: int = 20) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return (3 * np.random.default_rng(9).standard_normal((count, DIMENSION))).astype(np.float32)


@EXACT
@pytest.mark.parametrize("share", [None, 0.0, 0.01, 0.3, 0.5, 0.95, 1.0])
def test_an_exact_index_gives_the_best_eligible_rows(make: Make, share: float | None, tmp_path: Path) -> None:
    vectors = unit_vectors(ROWS, DIMENSION)
    index = make(vectors, tmp_path)
    mask = np.ones(ROWS, np.bool_) if share is None else np.random.default_rng(3).random(ROWS) < share
    for query in _queries():
        dots, positions = index.search(query, 10, None if share is None else pack(mask))
        every = np.where(mask, vectors.astype(np.float64) @ query, -np.inf)
        wanted = np.sort(every)[::-1][: min(10, int(mask.sum()))]
        np.testing.assert_allclose(dots, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(every[positions], wanted, rtol=1e-4, atol=1e-5)


@EXACT
def test_an_exact_index_finds_the_eligible_rows_where_they_are_the_worst(make: Make, tmp_path: Path) -> None:
    vectors = unit_vectors(ROWS, DIMENSION)
    query = _queries(1)[0]
    order = np.argsort(vectors.astype(np.float32) @ query)
    mask = np.zeros(ROWS, np.bool_)
    mask[order[: ROWS // 2]] = True  # half of all rows, and all of them behind the other half
    _, positions = make(vectors, tmp_path).search(query, 5, pack(mask))
    assert set(positions.tolist()) == set(order[ROWS // 2 - 5 : ROWS // 2].tolist())


@ALL
def test_a_filtered_search_returns_k_eligible_rows_whenever_k_exist(make: Make, tmp_path: Path) -> None:
    index = make(unit_vectors(ROWS, DIMENSION), tmp_path)
    for eligible in (1, 9, 10, 11, 300):
        mask = np.zeros(ROWS, np.bool_)
        mask[np.random.default_rng(eligible).choice(ROWS, eligible, replace=False)] = True
        for query in _queries():
            dots, positions = index.search(query, 10, pack(mask))
            assert len(dots) == len(positions) == min(10, eligible)
            assert mask[positions].all()
            assert len(set(positions.tolist())) == len(positions)


@ALL
def test_dots_are_the_inner_products_of_the_rows_best_first(make: Make, tmp_path: Path) -> None:
    vectors = unit_vectors(ROWS, DIMENSION)
    index = make(vectors, tmp_path)
    for query in _queries():
        dots, positions = index.search(query, 25, None)
        assert dots.dtype == np.float32
        assert positions.dtype == np.int64
        assert (np.diff(dots) <= 0).all()
        np.testing.assert_allclose(dots, vectors[positions].astype(np.float64) @ query, rtol=1e-4, atol=1e-5)


@ALL
@pytest.mark.parametrize(("k", "found"), [(0, 0), (1, 1), (ROWS, ROWS), (ROWS + 50, ROWS)])
def test_k_is_cut_to_the_rows_there_are(make: Make, k: int, found: int, tmp_path: Path) -> None:
    index = make(unit_vectors(ROWS, DIMENSION), tmp_path)
    assert len(index.search(_queries(1)[0], k, None)[0]) == found


@ALL
def test_nothing_allowed_finds_nothing(make: Make, tmp_path: Path) -> None:
    index = make(unit_vectors(ROWS, DIMENSION), tmp_path)
    assert len(index.search(_queries(1)[0], 10, pack(np.zeros(ROWS, np.bool_)))[0]) == 0


@ALL
def test_one_row_is_enough(make: Make, tmp_path: Path) -> None:
    index = make(unit_vectors(1, DIMENSION), tmp_path)
    assert index.search(_queries(1)[0], 5, None)[1].tolist() == [0]


@ALL
def test_a_query_or_bitmap_of_another_shape_is_an_error_and_not_a_crash(make: Make, tmp_path: Path) -> None:
    index = make(unit_vectors(ROWS, DIMENSION), tmp_path)
    query = _queries(1)[0]
    with pytest.raises(ValueError, match="query"):
        index.search(query[:-1], 5, None)
    with pytest.raises(ValueError, match="query"):
        index.search(query[None], 5, None)
    with pytest.raises(ValueError, match="bitmap"):
        index.search(query, 5, pack(np.ones(ROWS - 8, np.bool_)))
    with pytest.raises(ValueError, match="bitmap"):
        index.search(query, 5, np.ones(ROWS, np.bool_).astype(np.uint8))


@ALL
def test_many_threads_find_what_one_finds(make: Make, tmp_path: Path) -> None:
    index = make(unit_vectors(ROWS, DIMENSION), tmp_path)
    queries = _queries(40)
    mask = pack(np.arange(ROWS) % 3 == 0)
    alone = [index.search(query, 10, mask if i % 2 else None)[1] for i, query in enumerate(queries)]
    wrong: list[int] = []

    def work() -> None:
        for i, query in enumerate(queries):
            if not np.array_equal(index.search(query, 10, mask if i % 2 else None)[1], alone[i]):
                wrong.append(i)

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@ALL
def test_a_search_leaves_the_thread_s_openmp_setting_as_it_was(make: Make, tmp_path: Path) -> None:
    index = make(unit_vectors(ROWS, DIMENSION), tmp_path)
    with threads(3):
        index.search(_queries(1)[0], 5, None)
        assert faiss.omp_get_max_threads() == 3


@pytest.mark.parametrize("make", [_flat, _ivf, _hnsw, _torch, *_ON_GPU])
def test_a_query_of_nan_is_an_error(make: Make, tmp_path: Path) -> None:
    index = make(unit_vectors(ROWS, DIMENSION), tmp_path)
    with pytest.raises(ValueError, match="NaN"):
        index.search(np.full(DIMENSION, np.nan, np.float32), 5, None)
