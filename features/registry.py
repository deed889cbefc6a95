"""The feature registry: each feature declared once, with the paths it is onboarded to.

The registry's content hash travels in every tower, release and log. Whoever loads a model that was
trained against another registry is refused: that one check removes most training-serving skew.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

from schemas.errors import Refused

Array = npt.NDArray[np.generic]
Transform = Callable[[npt.NDArray[np.void]], Array]
"""A batch of records (structured array, shape (N,)) -> feature values, shape (N, *spec.shape)."""


class Entity(StrEnum):
    """Whose feature it is, and so which record its transform reads."""

    PIN = "pin"
    USER = "user"
    CONTEXT = "context"


class Path(StrEnum):
    """Where a feature is served. A feature in the training data but on no serving path is an O/O gap."""

    TRAINING = "training"
    L1_EMBEDDING = "l1_embedding"
    RANKER = "ranker"
    L2 = "l2"


@dataclass(frozen=True)
class FeatureSpec:
    """One feature. `version` grows whenever the transform's output changes for any input."""

    name: str
    entity: Entity
    transform: Transform = field(repr=False)
    dtype: Literal["int64", "float32"]
    shape: tuple[int, ...]
    owner: str
    doc: str
    paths: frozenset[Path]
    source: tuple[str, ...]
    """Record fields that the transform reads."""
    buckets: int | None = None
    """Size of the id space of a categorical feature; ids are 0 (missing) to buckets - 1."""
    default: float = 0.0
    version: int = 1

    def declaration(self) -> dict[str, object]:
        """Everything that decides a value, as plain data."""
        return {
            "name": self.name,
            "entity": self.entity.value,
            "transform": self.transform.__name__,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "source": list(self.source),
            "buckets": self.buckets,
            "default": self.default,
            "version": self.version,
            "paths": sorted(path.value for path in self.paths),
        }


class FeatureRegistry:
    """An immutable set of feature declarations, in a fixed order."""

    def __init__(self, specs: Iterable[FeatureSpec]) -> None:
        self.specs = tuple(specs)
        self._by_name = {spec.name: spec for spec in self.specs}
        if len(self._by_name) != len(self.specs):
            raise ValueError("a feature name is declared twice")
        self.content_hash = hashlib.sha256(
            json.dumps([spec.declaration() for spec in self.specs], sort_keys=True).encode()
        ).hexdigest()

    def __getitem__(self, name: str) -> FeatureSpec:
        if name not in self._by_name:
            raise Refused(
                "unknown_feature",
                expected=f"one of {sorted(self._by_name)}",
                came=repr(name),
                fix="Declare it in features/definitions.py.",
            )
        return self._by_name[name]

    def on_path(self, path: Path, entity: Entity) -> tuple[FeatureSpec, ...]:
        """The features of `entity` that are onboarded to `path`, in declaration order."""
        return tuple(spec for spec in self.specs if path in spec.paths and spec.entity is entity)

    def compute(self, names: Iterable[str], records: npt.NDArray[np.void]) -> dict[str, Array]:
        """Feature values of a batch of records, by feature name, each of shape (N, *spec.shape)."""
        return {name: self[name].transform(records) for name in names}

    def input_mask(self, names: Iterable[str], values: dict[str, Array]) -> npt.NDArray[np.int64]:
        """Bit i of row r is set when the i-th named feature of row r is not all default."""
        masks: list[npt.NDArray[np.int64]] = []
        for bit, name in enumerate(names):
            array = values[name]
            filled = (array != self[name].default).reshape(len(array), -1).any(axis=1)
            masks.append(filled.astype(np.int64) << bit)
        mask: npt.NDArray[np.int64] = np.bitwise_or.reduce(masks)
        return mask

    def without(
        self, names: Iterable[str], values: dict[str, Array], mask: npt.NDArray[np.int64]
    ) -> dict[str, Array]:
        """The values, but at default where bit i of `mask[r]` is not set: row r of the i-th name."""
        kept = dict(values)
        for bit, name in enumerate(names):
            gone = (mask >> bit) & 1 == 0
            if gone.any():
                kept[name] = values[name].copy()
                kept[name][gone] = self[name].default
        return kept

    def check_hash(self, came: str, where: str) -> None:
        """Raises Refused when `where` was made against another registry."""
        if came != self.content_hash:
            raise Refused(
                "registry_mismatch",
                expected=f"feature registry {self.content_hash[:12]}",
                came=f"{came[:12]} in {where}",
                fix="Retrain with this registry, or deploy the code that the artefact was made with.",
            )
