"""The flat FAISS index on a GPU (the `[gpu]` extra): exact, fp16 rows, filters by fetching more.

FAISS's GPU indexes are not safe from many threads and take at most 2,048 results and no selector for a
flat scan: searches take turns, and a filter that leaves too few of those goes to the CPU's flat index
over the same rows.
"""

from threading import Lock
from typing import Any

import faiss as _faiss
import numpy as np

from schemas.errors import Refused

from .faiss_index import FlatIndex
from .row_files import Matrix
from .vector_index import Bitmap, Dots, Positions, Query, checked, eligible_rows

faiss: Any = _faiss

_MOST_RESULTS = 2_048


def has_gpu() -> bool:
    """Whether this FAISS can use a GPU that is there."""
    return hasattr(faiss, "StandardGpuResources") and int(faiss.get_num_gpus()) > 0


class GpuFlatIndex:
    """Every row on one GPU; a `VectorIndex`. Holds the rows in the host's memory too, for narrow filters.

    Raises Refused (`no_device`) without a GPU or without the GPU build of FAISS.
    """

    def __init__(self, vectors: Matrix, device: int = 0) -> None:
        if not has_gpu():
            fix = "Install the [gpu] extra on a machine with a GPU, or search on the CPU."
            raise Refused("no_device", "a GPU and faiss-gpu", "none", fix)
        self.rows, self.dimension = vectors.shape
        self._host = FlatIndex(vectors)
        self._resources = faiss.StandardGpuResources()
        config = faiss.GpuIndexFlatConfig()
        config.device, config.useFloat16 = device, True
        self._index = faiss.GpuIndexFlatIP(self._resources, self.dimension, config)
        self._index.add(np.asarray(vectors, np.float32))
        self._turn = Lock()

    def search(self, query: Query, k: int, allowed: Bitmap | None) -> tuple[Dots, Positions]:
        """See `VectorIndex`."""
        query, allowed = checked(query, allowed, self.rows, self.dimension)
        wanted = min(k, self.rows if allowed is None else eligible_rows(allowed))
        share = 1.0 if allowed is None else wanted and eligible_rows(allowed) / self.rows
        fetch = wanted if allowed is None else int(1.25 * wanted / share) + 32 if share else 0
        if not 0 < fetch <= _MOST_RESULTS:
            return self._host.search(query, k, allowed)
        with self._turn:
            dots, positions = self._index.search(query[None], min(fetch, self.rows))
        dots, positions = dots[0], positions[0].astype(np.int64)
        if allowed is not None:
            kept = np.flatnonzero(allowed[positions >> 3] >> (positions & 7).astype(np.uint8) & 1)
            dots, positions = dots[kept[:wanted]], positions[kept[:wanted]]
        # Fewer than there are eligible: the filter sat in the wrong place for this query.
        return (dots, positions) if len(dots) == wanted else self._host.search(query, k, allowed)
