"""What an index finds of what an exact scan finds."""

from collections.abc import Callable
from typing import Any

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from .row_files import Matrix
from .vector_index import Bitmap, Dots, Positions, Query

# See `faiss_index`: the stubs know less than the code.
faiss: Any = _faiss

Search = Callable[[Query, int, Bitmap | None], tuple[Dots, Positions]]
Queries = npt.NDArray[np.float32]

_CHUNK_ROWS = 65_536
_SLACK = 1e-6
"""Of a query's length: an exact dot by SIMD and one by matrix product differ in the last bits."""


def exact_best(vectors: Matrix, queries: Queries, k: int) -> tuple[Dots, Positions]:
    """The best k rows of each query by an exact scan of fp16 `vectors`, best first: [Q, k'] each.

    In chunks, as fp32 matrix products over all queries at once: several times quicker than one by one.
    """
    dots = np.empty((len(queries), 0), np.float32)
    positions = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), _CHUNK_ROWS):
        chunk = vectors[start : start + _CHUNK_ROWS].astype(np.float32)
        found, rows = faiss.knn(queries, chunk, min(k, len(chunk)), metric=faiss.METRIC_INNER_PRODUCT)
        dots, positions = np.hstack((dots, found)), np.hstack((positions, rows + start))
        best = np.argsort(-dots, axis=1, kind="stable")[:, :k]
        dots = np.take_along_axis(dots, best, axis=1)
        positions = np.take_along_axis(positions, best, axis=1)
    return dots, positions


def share_found(search: Search, queries: Queries, worst: npt.NDArray[np.float32], k: int, rows: int) -> float:
    """Of the `min(k, rows)` best rows of each query the share that `search` finds.

    `worst` [Q] is the dot of the last of them: whatever is as near counts, whichever of equals came.
    """
    wanted = min(k, rows)
    slack = _SLACK * np.maximum(np.linalg.norm(queries, axis=1), 1)
    hits = 0
    for query, least in zip(queries, worst - slack, strict=True):
        hits += min(int((search(query, k, None)[0] >= least).sum()), wanted)
    return hits / (wanted * len(queries))
