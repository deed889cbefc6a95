"""What retrieval needs of an index, and the exact one that every other is measured against."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

Query = npt.NDArray[np.float32]
Dots = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]
Bitmap = npt.NDArray[np.uint8]
"""Allowed rows, `np.packbits(mask, bitorder="little")`: row i is bit `i % 8` of byte `i // 8`."""

_CHUNK_ROWS = 65_536


class VectorIndex(Protocol):
    """Rows to search by inner product. Passes `tests/contracts/test_vector_index.py`."""

    rows: int
    dimension: int

    def search(self, query: Query, k: int, allowed: Bitmap | None) -> tuple[Dots, Positions]:
        """The best `min(k, eligible rows)`, best first: float32 dots and row numbers.

        `query` is float32 [D] of any length; `allowed` restricts to the rows whose bit is set.
        Raises ValueError for a query or a bitmap of another shape. Safe from many threads.
        """
        ...


class ExactIndex:
    """Every row, by numpy, in chunks: the oracle for tests and recall, and the last resort of filters."""

    def __init__(self, vectors: npt.NDArray[np.floating]) -> None:
        self._vectors = vectors
        self.rows, self.dimension = vectors.shape

    def search(self, query: Query, k: int, allowed: Bitmap | None) -> tuple[Dots, Positions]:
        """See `VectorIndex`. Equal dots come in row order."""
        query, allowed = checked(query, allowed, self.rows, self.dimension)
        dots, positions = np.empty(0, np.float32), np.empty(0, np.int64)
        for rows in self._chunks(allowed):
            found = self._vectors[rows].astype(np.float32) @ query
            dots, positions = np.concatenate((dots, found)), np.concatenate((positions, rows))
            if k < len(dots):
                # A stable sort keeps the lower row first where dots are equal.
                best = np.argsort(-dots, kind="stable")[: max(k, 0)]
                dots, positions = dots[best], positions[best]
        order = np.argsort(-dots, kind="stable")
        return dots[order], positions[order]

    def _chunks(self, allowed: Bitmap | None) -> Iterator[Positions]:
        for start in range(0, self.rows, _CHUNK_ROWS):
            stop = min(start + _CHUNK_ROWS, self.rows)
            if allowed is None:
                yield np.arange(start, stop, dtype=np.int64)
            else:
                bits = np.unpackbits(
                    allowed[start // 8 : -(-stop // 8)], count=stop - start, bitorder="little"
                )
                yield np.flatnonzero(bits).astype(np.int64) + start


def pack(mask: npt.NDArray[np.bool_]) -> Bitmap:
    """A mask over the rows as the bitmap that `search` takes."""
    return np.packbits(mask, bitorder="little")


def eligible_rows(allowed: Bitmap) -> int:
    """How many rows a bitmap allows (bits beyond the last row are zero, as `pack` leaves them)."""
    return int(np.bitwise_count(allowed).sum(dtype=np.int64))


def checked(query: Query, allowed: Bitmap | None, rows: int, dimension: int) -> tuple[Query, Bitmap | None]:
    """Both in the layout whose address may be handed to C. Raises ValueError for other shapes."""
    query = np.ascontiguousarray(query, np.float32)
    if query.shape != (dimension,):
        raise ValueError(f"a query has shape ({dimension},), this one {query.shape}")
    if allowed is None:
        return query, None
    if allowed.dtype != np.uint8 or allowed.shape != ((rows + 7) // 8,):
        raise ValueError(f"a bitmap of {rows} rows has {(rows + 7) // 8} bytes, this one {allowed.shape}")
    return query, np.ascontiguousarray(allowed)
