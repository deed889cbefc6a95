"""The exact scan on a torch device: one product with every row and one top-k; only the k come back.

Rows stay fp16. A query is split into two fp16 parts whose sum is the fp32 query to 22 bits, and both go
through one product with fp32 accumulation, so that the dots are those of the fp32 query; a scan is bound
by the bytes of the rows, so the second part costs next to nothing.
"""

from threading import Lock
from typing import Literal

import numpy as np
import torch

from index.loading import LoadedIndex
from index.row_files import Matrix
from index.vector_index import Bitmap, Dots, Positions, Query, checked
from schemas.errors import Refused

_CPU_CHUNK_ROWS = 65_536
_NO_ROW = float("-inf")

Precision = Literal["fp16", "bf16"]
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def place(index: LoadedIndex, device: str) -> None:
    """Search a release's rows on this device from now on; `cpu` leaves them to the index that was built.

    Raises Refused (`no_device`).
    """
    if device != "cpu":
        index.searched_by(TorchIndex(index.vectors, device))


class TorchIndex:
    """Every row on a device, by inner product; a `VectorIndex`. fp16 [N, D] rows, 2·N·D bytes on it.

    `bf16` rounds the rows to 8 bits of mantissa and so is exact for those rounded rows only. Raises Refused
    (`no_device`) for a device that is not there. Searches on one device take turns: they fill it anyway,
    and each needs N floats of room.
    """

    def __init__(self, vectors: Matrix, device: str = "cuda", precision: Precision = "fp16") -> None:
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            fix = "Use the device cpu, or install a CUDA build of torch on a machine with a GPU."
            raise Refused("no_device", device, "no CUDA device", fix)
        self.rows, self.dimension = vectors.shape
        dtype = _DTYPES[precision]
        self._rows = torch.from_numpy(np.array(vectors, np.float16)).to(self._device).to(dtype)
        self._bits = torch.arange(8, device=self._device, dtype=torch.uint8)
        self._turn = Lock()

    def search(self, query: Query, k: int, allowed: Bitmap | None) -> tuple[Dots, Positions]:
        """See `VectorIndex`. Equal dots come in any order."""
        query, allowed = checked(query, allowed, self.rows, self.dimension)
        if not np.isfinite(query).all():
            raise ValueError("a query holds NaN or infinity")
        if k <= 0 or not self.rows:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        with self._turn, torch.inference_mode():
            dots = self._dots(torch.from_numpy(query).to(self._device))
            if allowed is not None:
                dots.masked_fill_(~self._mask(allowed), _NO_ROW)
            best, rows = torch.topk(dots, min(k, self.rows), sorted=True)
            found, places = best.cpu().numpy(), rows.cpu().numpy()
        eligible = int(np.count_nonzero(found > _NO_ROW))
        return found[:eligible], places[:eligible]

    def _dots(self, query: torch.Tensor) -> torch.Tensor:
        """Dot products with every row, fp32 [N]."""
        if self._device.type == "cpu":
            # No fp16 product with fp32 accumulation there: chunks are widened.
            chunks = torch.split(self._rows, _CPU_CHUNK_ROWS)
            return torch.cat([chunk.float() @ query for chunk in chunks])
        high = query.to(self._rows.dtype)
        low = (query - high.float()).to(self._rows.dtype)
        parts = torch.stack((high, low), dim=1)
        both: torch.Tensor = torch.mm(self._rows, parts, out_dtype=torch.float32)
        return both.sum(dim=1)

    def _mask(self, allowed: Bitmap) -> torch.Tensor:
        """Bit i % 8 of byte i // 8, as bool [N]."""
        packed = torch.from_numpy(allowed).to(self._device)
        bits = (packed.unsqueeze(1) >> self._bits) & 1
        return bits.reshape(-1)[: self.rows].bool()
