"""The FAISS indexes: flat, IVF and HNSW, all by inner product over the snapshot's own fp16 vectors.

fp16 codes lose nothing (the snapshot is fp16) and are half the bytes; on AVX512 a single query over
them is faster than over fp32. What is on disk is only what cannot be made from the vectors again:
nothing for flat, centroids and each row's list for IVF, the graph for HNSW.

NOTE: the addresses of numpy arrays go to C here; `checked` guards every one of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from schemas.artefacts import naming
from schemas.errors import Refused

from .row_files import Matrix
from .vector_index import Bitmap, Dots, Positions, Query, checked, eligible_rows

# The type stubs in the wheel are behind its code: they know neither these parameters nor these flags.
faiss: Any = _faiss

Found = tuple[Dots, Positions]
Lists = npt.NDArray[np.uint16]
"""The inverted list of each row."""

_FP16 = faiss.ScalarQuantizer.QT_fp16
_INNER_PRODUCT = faiss.METRIC_INNER_PRODUCT
_CHUNK_ROWS = 65_536
_TRAINING_ROWS_PER_LIST = 39
"""What FAISS asks for before it warns; more rows make the centroids hardly better."""
HNSW_LINKS = 16
_EF_CONSTRUCTION = 100
_OVERFETCH_FROM_SHARE = 0.4
_OVERFETCH_TO_ROWS = 1024
"""Where fetching too many and dropping the rest beats a selector, whose branch per row mispredicts."""


class FlatIndex:
    """Every row, by SIMD. Exact. `matrix` is a view of the index's own memory, so vectors are held once."""

    def __init__(self, vectors: Matrix) -> None:
        self.rows, self.dimension = vectors.shape
        self.storage = faiss.IndexScalarQuantizer(self.dimension, _FP16, _INNER_PRODUCT)
        if self.rows:
            self.storage.add_sa_codes(np.ascontiguousarray(vectors).view(np.uint8))
        self.matrix = _fp16_view(self.storage, self.rows, self.dimension)

    def search(self, query: Query, k: int, allowed: Bitmap | None) -> Found:
        """See `VectorIndex`."""
        query, allowed = checked(query, allowed, self.rows, self.dimension)
        if allowed is None:
            return _complete(query, min(k, self.rows), _call(self.storage, query, min(k, self.rows), None))
        eligible = eligible_rows(allowed)
        wanted = min(k, eligible)
        if eligible >= _OVERFETCH_FROM_SHARE * self.rows:
            fetch = min(self.rows, int(1.25 * wanted * self.rows / max(eligible, 1)) + 32)
            if fetch <= _OVERFETCH_TO_ROWS:
                dots, positions = _call(self.storage, query, fetch, None)
                kept = np.flatnonzero(allowed[positions >> 3] >> (positions & 7).astype(np.uint8) & 1)
                if len(kept) >= wanted:
                    return dots[kept[:wanted]], positions[kept[:wanted]]
        return _complete(
            query, wanted, _filtered(self.storage, query, wanted, allowed, faiss.SearchParameters())
        )


@dataclass(frozen=True)
class _Effort:
    """How hard an approximate index looks: nprobe or efSearch, and the parameters that carry it."""

    first: int
    parameters: Callable[[int], Any]

    @property
    def widened(self) -> int:
        """For a second attempt, when a filter or a small list left fewer rows than asked for."""
        return 8 * self.first


class ApproximateIndex:
    """IVF or HNSW. Looks harder, at last at every row, while fewer than `k` eligible rows come back."""

    def __init__(
        self,
        index: Any,
        matrix: Matrix,
        effort: _Effort,
        every_row: Callable[[Query, int, Bitmap | None], Found],
    ) -> None:
        self.rows, self.dimension = matrix.shape
        self.matrix = matrix
        self._index, self._effort, self._every_row = index, effort, every_row
        self._first = effort.parameters(effort.first)
        self.effort = effort.first

    def at_effort(self, effort: int) -> "ApproximateIndex":
        """The same index, looking at `effort` lists (nprobe) or neighbours (efSearch) first."""
        return ApproximateIndex(
            self._index, self.matrix, _Effort(effort, self._effort.parameters), self._every_row
        )

    def search(self, query: Query, k: int, allowed: Bitmap | None) -> Found:
        """See `VectorIndex`."""
        query, allowed = checked(query, allowed, self.rows, self.dimension)
        k = min(k, self.rows)
        if allowed is None:
            found = _call(self._index, query, k, self._first)
        else:
            found = _filtered(self._index, query, k, allowed, self._effort.parameters(self._effort.first))
        return found if len(found[0]) == k else self._harder(query, k, allowed, found)

    def _harder(self, query: Query, k: int, allowed: Bitmap | None, found: Found) -> Found:
        wanted = k if allowed is None else min(k, eligible_rows(allowed))
        if len(found[0]) < wanted:
            parameters = self._effort.parameters(self._effort.widened)
            found = _filtered(self._index, query, wanted, allowed, parameters)
        if len(found[0]) < wanted:
            found = _complete(query, wanted, self._every_row(query, wanted, allowed))
        return found


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let FAISS use so many threads inside the block, when called from this thread.

    NOTE: torch in the same thread reads the same OpenMP setting, so it has to be put back.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def train_ivf(vectors: Matrix, nlist: int, seed: int) -> tuple[Any, Lists]:
    """Spherical k-means over a seeded sample: the trained, empty IVF index and each row's list."""
    rows, dimension = vectors.shape
    skeleton = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dimension), dimension, nlist, _FP16, _INNER_PRODUCT, False
    )
    skeleton.cp.seed, skeleton.cp.spherical = seed, True
    # Small snapshots have fewer rows than FAISS would like; it warns on stdout otherwise.
    skeleton.cp.min_points_per_centroid = 1
    sample = np.random.default_rng(seed).choice(
        rows, min(rows, _TRAINING_ROWS_PER_LIST * nlist), replace=False
    )
    skeleton.train(vectors[np.sort(sample)].astype(np.float32))
    lists = np.empty(rows, np.uint16)
    for start in range(0, rows, _CHUNK_ROWS):
        chunk = vectors[start : start + _CHUNK_ROWS].astype(np.float32)
        lists[start : start + _CHUNK_ROWS] = skeleton.quantizer.assign(chunk, 1)[:, 0]
    return skeleton, lists


def ivf_index(skeleton: Any, lists: Lists, vectors: Matrix, nprobe: int) -> ApproximateIndex:
    """Fill a trained, empty IVF index; the codes are copied list by list, without encoding anything."""
    nlist = int(skeleton.nlist)
    order = np.argsort(lists, kind="stable").astype(np.int64)
    bounds = np.searchsorted(lists[order], np.arange(nlist + 1)).tolist()
    for number, (start, stop) in enumerate(pairwise(bounds)):
        if stop > start:
            ids = order[start:stop]
            codes = np.ascontiguousarray(vectors[ids]).view(np.uint8)
            skeleton.invlists.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    skeleton.ntotal = len(vectors)

    def parameters(nprobe: int) -> Any:
        return faiss.SearchParametersIVF(nprobe=min(nprobe, nlist))

    def every_row(query: Query, k: int, allowed: Bitmap | None) -> Found:
        return _filtered(skeleton, query, k, allowed, parameters(nlist))

    return ApproximateIndex(skeleton, vectors, _Effort(nprobe, parameters), every_row)


def build_hnsw(vectors: Matrix) -> Any:
    """Insert every row in order. One thread gives the same graph every time; more are faster."""
    index = faiss.IndexHNSWSQ(vectors.shape[1], _FP16, HNSW_LINKS, _INNER_PRODUCT)
    index.hnsw.efConstruction = _EF_CONSTRUCTION
    for start in range(0, len(vectors), _CHUNK_ROWS):
        index.add(vectors[start : start + _CHUNK_ROWS].astype(np.float32))
    return index


def hnsw_index(graph: Any, vectors: Matrix, ef_search: int) -> ApproximateIndex:
    """Put a graph that was read back over its vectors; they are held once, as in a flat index."""
    flat = FlatIndex(vectors)
    # C++ holds no reference: `flat`, which the search below needs anyway, keeps the vectors alive.
    graph.own_fields = False
    graph.storage = flat.storage

    def parameters(ef_search: int) -> Any:
        return faiss.SearchParametersHNSW(efSearch=ef_search)

    return ApproximateIndex(graph, flat.matrix, _Effort(ef_search, parameters), flat.search)


def write_trained(index: Any, path: Path) -> None:
    """Write centroids or graph, without vectors."""
    with naming(path, RuntimeError):
        faiss.write_index(index, str(path), faiss.IO_FLAG_SKIP_STORAGE)


def read_trained(path: Path, kind: str, dimension: int) -> Any:
    """Read what `write_trained` wrote; the caller has checked its sha256.

    Raises Refused (`unreadable_file`, `wrong_index_kind`, `wrong_dimension`, `wrong_metric`) when the
    file is not what the manifest says: a checksum proves who wrote it, not that it fits.
    """
    fix = "Build the release again."
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_SKIP_STORAGE)
    except RuntimeError as error:
        raise Refused("unreadable_file", f"a FAISS index in {path.name}", str(error)[:300], fix) from error
    expected = {"ivf": faiss.IndexIVFScalarQuantizer, "hnsw": faiss.IndexHNSWSQ}[kind]
    if type(index) is not expected or (kind == "ivf" and (index.sq.qtype != _FP16 or index.by_residual)):
        raise Refused("wrong_index_kind", f"{expected.__name__} over fp16", type(index).__name__, fix)
    if index.d != dimension:
        raise Refused("wrong_dimension", f"{dimension} dimensions in {path.name}", str(index.d), fix)
    if index.metric_type != _INNER_PRODUCT:
        raise Refused(
            "wrong_metric", "inner product", f"FAISS metric {index.metric_type} in {path.name}", fix
        )
    return index


def _filtered(index: Any, query: Query, k: int, allowed: Bitmap | None, parameters: Any) -> Found:
    """One search with parameters of its own: those with a selector cannot be shared between threads."""
    if allowed is None:
        return _call(index, query, k, parameters)
    selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(allowed))
    parameters.sel = selector
    return _call(index, query, k, parameters)


def _call(index: Any, query: Query, k: int, parameters: Any) -> Found:
    if k <= 0:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    dots, positions = np.empty(k, np.float32), np.empty(k, np.int64)
    addresses = faiss.swig_ptr(query), k, faiss.swig_ptr(dots), faiss.swig_ptr(positions)
    if faiss.omp_get_max_threads() == 1:
        index.search_c(1, *addresses, parameters)
    else:
        # For a single query, waking other threads costs more than they save.
        with threads(1):
            index.search_c(1, *addresses, parameters)
    if positions[-1] >= 0:
        return dots, positions
    found = int(np.count_nonzero(positions >= 0))
    return dots[:found], positions[:found]


def _complete(query: Query, wanted: int, found: Found) -> Found:
    """Nothing is missing from a search over every row, unless the query is no vector."""
    if len(found[0]) < wanted and not np.isfinite(query).all():
        raise ValueError("a query holds NaN or infinity")
    return found


class _Codes:
    """Memory of an index as an array that keeps the index alive."""

    def __init__(self, storage: Any, shape: tuple[int, int]) -> None:
        self._storage = storage
        self.__array_interface__ = {
            "data": (int(storage.codes.data()), True),
            "shape": shape,
            "typestr": "<f2",
            "version": 3,
        }


def _fp16_view(storage: Any, rows: int, dimension: int) -> Matrix:
    if not rows:
        return np.empty((0, dimension), np.float16)
    view: Matrix = np.asarray(_Codes(storage, (rows, dimension)))
    return view
