"""The query tower's forward pass in numpy, for the few queries of one request.

torch spends more on dispatching a dozen small operations than on computing them. The weights are the
same arrays; `tests/models/test_predictor.py` holds both passes together.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from .towers import TwoTower

Floats = npt.NDArray[np.float32]
Column = npt.NDArray[Any]
"""Feature values: the registry declares their types, mypy cannot see them."""

_EPSILON = np.float32(1e-6)
_LEAST_LENGTH = np.float32(1e-12)


class QueryKernel:
    """`TwoTower.embed_queries` over numpy arrays; agrees with it within rounding."""

    def __init__(self, model: TwoTower) -> None:
        weights = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
        self._ids: Floats = weights["ids.weight"]
        self._categories: Floats = weights["query.categories.weight"]
        self._table: Floats = weights["query.table.weight"]
        self._history = np.ascontiguousarray(weights["query.history.weight"].T)
        self._dense = np.ascontiguousarray(weights["query.dense.weight"].T)
        self._hidden_bias = weights["query.history.bias"] + weights["query.dense.bias"]
        self._out = np.ascontiguousarray(weights["query.out.weight"].T)
        self._out_bias: Floats = weights["query.out.bias"]
        self._power = np.float32(weights["query.history_power"])
        self._scale = np.float32(weights["query.history_scale"])
        self._length = np.exp(np.float32(weights["query.log_inverse_temperature"]))
        self._place_weights: Floats = np.exp(weights["query.place_weights"])

    def __call__(
        self, pins: Column, categories: Column, shares: Column, codes: Column, dense: Column
    ) -> Floats:
        """Arrays as in `QueryBatch` -> (N, D)."""
        filled = shares > 0
        raised = np.power(np.where(filled, shares + _EPSILON, np.float32(1)), self._power)
        weights = np.where(filled, raised * self._place_weights, np.float32(0))
        weights = weights / (np.sqrt(np.square(weights).sum(axis=1, keepdims=True)) + _EPSILON)
        history = np.matmul(weights[:, None, :], self._ids[pins])[:, 0]
        category = np.matmul(weights[:, None, :], self._categories[categories])[:, 0]
        hidden = np.concatenate([history, category], axis=1) @ self._history
        hidden += self._table[codes].sum(axis=1)
        hidden += dense @ self._dense
        hidden += self._hidden_bias
        np.maximum(hidden, 0, out=hidden)
        summed = self._scale * history + category + hidden @ self._out + self._out_bias
        length = np.sqrt(np.square(summed).sum(axis=1, keepdims=True))
        vectors: Floats = summed * (self._length / np.maximum(length, _LEAST_LENGTH))
        return vectors
