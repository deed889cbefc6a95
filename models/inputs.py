"""Records -> tensors by registry: the only place that decides the order of a tower's inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from features.registry import Array, Entity, FeatureRegistry, Path

Records = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

HISTORY_PINS, HISTORY_CATEGORIES, HISTORY_WEIGHTS = "history_pins", "history_categories", "history_weights"
PIN_ID = "pin_id"


class PinBatch(NamedTuple):
    """What the Pin tower reads of N Pins."""

    ids: torch.Tensor
    """int64 (N,): rows of the id table."""
    codes: torch.Tensor
    """int64 (N, C): rows of the table that all other categorical inputs share."""
    dense: torch.Tensor
    """float32 (N, F)."""


class QueryBatch(NamedTuple):
    """What the query tower reads of N queries."""

    history_ids: torch.Tensor
    """int64 (N, H)."""
    history_categories: torch.Tensor
    """int64 (N, H)."""
    history_weights: torch.Tensor
    """float32 (N, H), each row sums to 1 or is all 0."""
    codes: torch.Tensor
    """int64 (N, C)."""
    dense: torch.Tensor
    """float32 (N, F)."""


@dataclass(frozen=True)
class Layout:
    """Which columns of the shared table and of the dense part each named input takes."""

    categorical: tuple[tuple[str, int, int], ...]
    """(name, width, first row in the shared table)."""
    rows: int
    """Rows of the shared table."""
    numeric: tuple[tuple[str, int], ...]
    """(name, width)."""

    @classmethod
    def of(cls, registry: FeatureRegistry, names: Sequence[str]) -> "Layout":
        """Layout of the named features, in their order."""
        categorical, numeric, rows = [], [], 0
        for name in names:
            spec = registry[name]
            width = int(np.prod(spec.shape, dtype=np.int64))
            if spec.buckets is None:
                numeric.append((name, width))
            else:
                categorical.append((name, width, rows))
                rows += spec.buckets
        return cls(tuple(categorical), rows, tuple(numeric))

    @property
    def dense_width(self) -> int:
        """Columns of the dense part."""
        return sum(width for _, width in self.numeric)

    def codes(self, values: dict[str, Array]) -> Ints:
        """Rows of the shared table: shape (N, sum of widths)."""
        count = len(next(iter(values.values())))
        codes = np.empty((count, sum(width for _, width, _ in self.categorical)), np.int64)
        column = 0
        for name, width, first in self.categorical:
            np.add(values[name].reshape(count, width), first, out=codes[:, column : column + width])
            column += width
        return codes

    def dense(self, values: dict[str, Array]) -> Floats:
        """Dense part: shape (N, dense_width)."""
        count = len(next(iter(values.values())))
        dense = np.empty((count, self.dense_width), np.float32)
        column = 0
        for name, width in self.numeric:
            dense[:, column : column + width] = values[name].reshape(count, width)
            column += width
        return dense


@dataclass(frozen=True)
class TowerInputs:
    """The registry's features that the towers read, in declaration order."""

    registry: FeatureRegistry
    pin_names: tuple[str, ...]
    user_names: tuple[str, ...]
    context_names: tuple[str, ...]
    pin_layout: Layout
    query_layout: Layout

    @classmethod
    def of(cls, registry: FeatureRegistry) -> "TowerInputs":
        """Every feature that is onboarded to the L1 embedding path."""
        pin, user, context = (
            tuple(spec.name for spec in registry.on_path(Path.L1_EMBEDDING, entity))
            for entity in (Entity.PIN, Entity.USER, Entity.CONTEXT)
        )
        history = {HISTORY_PINS, HISTORY_CATEGORIES, HISTORY_WEIGHTS}
        return cls(
            registry=registry,
            pin_names=pin,
            user_names=user,
            context_names=context,
            pin_layout=Layout.of(registry, [name for name in pin if name != PIN_ID]),
            query_layout=Layout.of(registry, [name for name in (*user, *context) if name not in history]),
        )

    @property
    def query_names(self) -> tuple[str, ...]:
        """Names of the query tower's inputs."""
        return self.user_names + self.context_names

    def pin_values(self, pins: Records) -> dict[str, Array]:
        """Feature values of the Pin tower's inputs, by name."""
        return self.registry.compute(self.pin_names, pins)

    def query_values(self, users: Records, contexts: Records) -> dict[str, Array]:
        """Feature values of the query tower's inputs, by name."""
        return self.registry.compute(self.user_names, users) | self.registry.compute(
            self.context_names, contexts
        )

    def pin_batch(self, values: dict[str, Array]) -> PinBatch:
        """Tensors over the values' memory."""
        return PinBatch(
            torch.from_numpy(values[PIN_ID]),
            torch.from_numpy(self.pin_layout.codes(values)),
            torch.from_numpy(self.pin_layout.dense(values)),
        )

    def query_batch(self, values: dict[str, Array]) -> QueryBatch:
        """Tensors over the values' memory."""
        return QueryBatch(
            torch.from_numpy(values[HISTORY_PINS]),
            torch.from_numpy(values[HISTORY_CATEGORIES]),
            torch.from_numpy(values[HISTORY_WEIGHTS]),
            torch.from_numpy(self.query_layout.codes(values)),
            torch.from_numpy(self.query_layout.dense(values)),
        )
