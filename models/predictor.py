"""The towers as serving and enrichment use them: records in, numpy vectors out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from features.registry import FeatureRegistry
from schemas.errors import Refused, RetryableError
from schemas.manifests import Calibration, TowerManifest

from .checkpoint import load_towers
from .inputs import HISTORY_CATEGORIES, HISTORY_PINS, HISTORY_WEIGHTS, PinBatch, QueryBatch, Records
from .query_kernel import QueryKernel
from .towers import TwoTower

Vectors = npt.NDArray[np.float32]

CHUNK = 8192
"""Pins embedded at a time: the intermediate arrays stay small enough to be reused from cache."""
_CPU = torch.device("cpu")
_SMALL = 32
"""Up to so many queries numpy is faster than torch's dispatch."""


@dataclass(frozen=True)
class EmbeddedPins:
    """Vectors (N, D) of unit length, and which inputs of each Pin were not their default."""

    vectors: Vectors
    input_mask: npt.NDArray[np.int64]


def embed_pins(
    model: TwoTower,
    pins: Records,
    device: torch.device = _CPU,
    served_mask: npt.NDArray[np.int64] | None = None,
) -> EmbeddedPins:
    """Embed PIN_RECORDs with a model on `device`. A Pin's vector does not depend on its batch beyond 1e-6.

    With `served_mask` (N), as a row of an index says it in `input_mask`, inputs whose bit is not set are at
    their default whatever the record holds. What the device has no memory for is embedded in smaller parts.

    Raises FloatingPointError when a vector is not finite (a model error, not a bad message), RetryableError
    when the device has no memory for a single Pin.
    """
    inputs = model.inputs
    vectors = np.empty((len(pins), model.config.dimension), np.float32)
    masks = np.empty(len(pins), np.int64)
    for start in range(0, len(pins), CHUNK):
        rows = slice(start, start + CHUNK)
        values = inputs.pin_values(pins[rows])
        if served_mask is not None:
            values = inputs.registry.without(inputs.pin_names, values, served_mask[rows])
        masks[rows] = inputs.registry.input_mask(inputs.pin_names, values)
        vectors[rows] = _in_parts_that_fit(model, inputs.pin_batch(values), device)
    if not np.isfinite(vectors).all():
        raise FloatingPointError("the tower made a Pin vector that is not finite")
    return EmbeddedPins(vectors, masks)


def _in_parts_that_fit(model: TwoTower, batch: PinBatch, device: torch.device) -> Vectors:
    """Vectors (N, D); halved whenever the device has no memory for as many. Raises RetryableError."""
    done: list[Vectors] = []
    start, most = 0, len(batch.ids)
    while start < len(batch.ids):
        part = PinBatch(*(whole[start : start + most] for whole in batch))
        vectors, lack = _forward(model, part, device)
        if vectors is not None:
            done.append(vectors)
            start += most
            continue
        if device.type == "cuda":
            torch.cuda.empty_cache()  # torch keeps freed blocks, and they may be of the wrong sizes
        if most == 1:
            raise RetryableError(
                f"{device} has no memory to embed a single Pin ({lack}): free some, or embed elsewhere "
                "(SKEWLESS_DEVICE=cpu)"
            )
        most = (most + 1) // 2
    return done[0] if len(done) == 1 else np.concatenate(done)


def _forward(model: TwoTower, batch: PinBatch, device: torch.device) -> tuple[Vectors | None, str]:
    """Vectors; None and what the device said where it had no memory for them.

    Not the error: its traceback would hold what the forward had got so far.
    """
    try:
        with torch.inference_mode():
            embedded = model.embed_pins(PinBatch(*(part.to(device) for part in batch)))
            return embedded.to("cpu").numpy(), ""
    except torch.OutOfMemoryError as error:
        return None, str(error).partition("\n")[0][:200]


def embed_queries(model: TwoTower, users: Records, contexts: Records, device: torch.device = _CPU) -> Vectors:
    """Embed queries with a model on `device`: (N, D), of length 1 / temperature."""
    inputs = model.inputs
    batch = inputs.query_batch(inputs.query_values(users, contexts))
    with torch.inference_mode():
        vectors: Vectors = (
            model.embed_queries(QueryBatch(*(part.to(device) for part in batch))).to("cpu").numpy()
        )
    if not np.isfinite(vectors).all():
        raise FloatingPointError("the tower made a query vector that is not finite")
    return vectors


class PinTower:
    """One version's Pin tower on a device."""

    def __init__(self, model: TwoTower, manifest: TowerManifest, device: str = "cpu") -> None:
        self.manifest = manifest
        self.version = manifest.tower_version
        self.dimension = manifest.dimension
        self.inputs = tuple(manifest.pin_inputs)
        self._device = _usable(device)
        self._model = model.to(self._device)

    @classmethod
    def load(cls, root: Path, version: str, registry: FeatureRegistry, device: str = "cpu") -> "PinTower":
        """Load a checkpoint's Pin tower. Raises Refused for anything that does not fit."""
        model, manifest = load_towers(root, version, registry)
        return cls(model, manifest, device)

    def embed(self, pins: Records) -> EmbeddedPins:
        """Embed PIN_RECORDs; see `embed_pins`."""
        return embed_pins(self._model, pins, self._device)

    def embed_as_served(self, pins: Records, served_mask: npt.NDArray[np.int64]) -> EmbeddedPins:
        """The vectors that these Pins have where only the inputs in the mask came through; see `embed_pins`.

        Beside what was served it shows whether a feature that was missing explains a score: the records may
        come from a training table that has every feature.
        """
        return embed_pins(self._model, pins, self._device, served_mask)


class QueryTower:
    """One version's query tower on a device."""

    def __init__(self, model: TwoTower, manifest: TowerManifest, device: str = "cpu") -> None:
        self.manifest = manifest
        self.version = manifest.tower_version
        self.dimension = manifest.dimension
        self.inputs = tuple(manifest.query_inputs)
        self._device = _usable(device)
        self._kernel = QueryKernel(model)
        self._model = model.to(self._device)
        self._features = model.inputs

    @property
    def calibration(self) -> Calibration:
        """How a dot product of this version becomes a probability."""
        return self.manifest.calibration

    @classmethod
    def load(cls, root: Path, version: str, registry: FeatureRegistry, device: str = "cpu") -> "QueryTower":
        """Load a checkpoint's query tower. Raises Refused for anything that does not fit."""
        model, manifest = load_towers(root, version, registry)
        return cls(model, manifest, device)

    def embed(self, users: Records, contexts: Records) -> Vectors:
        """Embed queries: (N, D), of length 1 / temperature. Raises FloatingPointError when not finite."""
        if len(users) > _SMALL or self._device.type != "cpu":
            return embed_queries(self._model, users, contexts, self._device)
        values = self._features.query_values(users, contexts)
        layout = self._features.query_layout
        vectors = self._kernel(
            values[HISTORY_PINS],
            values[HISTORY_CATEGORIES],
            values[HISTORY_WEIGHTS],
            layout.codes(values),
            layout.dense(values),
        )
        if not np.isfinite(vectors).all():
            raise FloatingPointError(f"tower {self.version[:12]} made a query vector that is not finite")
        return vectors


def _usable(device: str) -> torch.device:
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise Refused("no_device", expected=device, came="no CUDA device", fix="Use the device cpu.")
    return chosen
