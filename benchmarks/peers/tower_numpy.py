"""The Pin tower's forward in numpy, from the same weights, for environments without torch.

Equals `models.predictor.PinTower` within 1e-3 (measured: fp32 rounding; `tests/benchmarks` checks it).
What the benchmark's events never set (titles, categories, mailers, coupons, visits) is at its default
for every Pin, so its share of the hidden layer is summed up once: less work than our own tower does.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

PIN_BUCKETS = 1 << 17
ADVERTISER_BUCKETS = 1 << 13
STORES = np.float32(115.0)
LAYOUT = "layout.json"
"""Beside the versions: the Pin inputs in order, as (name, width, buckets or null)."""
_GOLDEN_RATIO_64 = np.uint64(0x9E3779B97F4A7C15)

Layout = Sequence[tuple[str, int, int | None]]


def _bucket_ids(ids: Ints, buckets: int) -> Ints:
    mixed = (ids.astype(np.uint64) * _GOLDEN_RATIO_64) >> np.uint64(24)
    hashed: Ints = (mixed % np.uint64(buckets - 1)).astype(np.int64) + 1
    return hashed


class NumpyTower:
    """One checkpoint's Pin tower. `version` is its id."""

    def __init__(self, towers: Path, version: str) -> None:
        weights = load_file(towers / version / "weights.safetensors")
        layout: Layout = json.loads((towers / LAYOUT).read_text())
        self.version = version
        self._ids = weights["ids.weight"]
        self._out, self._out_bias = weights["pin.out.weight"].T.copy(), weights["pin.out.bias"]
        self._first: dict[str, int] = {}
        hidden = weights["pin.dense.bias"].copy()
        table, first = weights["pin.table.weight"], 0
        for name, width, buckets in layout:
            if buckets is not None and name != "pin_id":
                self._first[name] = first
                # An advertiser is looked up for each Pin; every other id is 0, «missing».
                hidden += 0 if name == "advertiser" else width * table[first]
                first += buckets
        self._hidden, self._table = hidden, table
        self._dense = self._columns(layout, weights["pin.dense.weight"])

    @staticmethod
    def _columns(layout: Layout, dense: Floats) -> Floats:
        """Rows of the dense weights for content, price, display stores and targeting flags, in this order."""
        places: dict[str, slice] = {}
        column = 0
        for name, width, buckets in layout:
            if buckets is None:
                places[name] = slice(column, column + width)
                column += width
        names = ("content", "price", "display_share", "targeting_flags")
        return np.concatenate([dense[:, places[name]] for name in names], axis=1).T.copy()

    def embed(self, entries: Sequence[dict[str, Any]], content: Floats) -> Floats:
        """Unit vectors (N, D) of Pins' entries; `content` (N, 48) are their content embeddings."""
        pins = np.array([one["pin_id"] for one in entries], np.int64)
        advertisers = np.array([one["advertiser_id"] for one in entries], np.int64)
        prices = np.array([one["price_micros"] for one in entries], np.float32)
        displays = np.array([one["display_stores"] for one in entries], np.float32)
        flags = [(one["interest_targeting"], False, one["auto_targeting"]) for one in entries]
        dense = np.concatenate(
            [
                content,
                np.log1p(prices * np.float32(1e-6))[:, None],
                displays / STORES,
                np.array(flags, np.float32),
            ],
            axis=1,
        )
        codes = np.where(advertisers == 0, 0, _bucket_ids(advertisers, ADVERTISER_BUCKETS))
        hidden = self._hidden + self._table[self._first["advertiser"] + codes] + dense @ self._dense
        summed = (
            self._ids[_bucket_ids(pins, PIN_BUCKETS)] + np.maximum(hidden, 0) @ self._out + self._out_bias
        )
        vectors: Floats = summed / np.linalg.norm(summed, axis=1, keepdims=True)
        return vectors
