"""Pin towers that are a plain function of the whole record, so that a wrong state gives a wrong vector."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.pin_state import Records
from tests.fakes import FakeEmbedded

DIMENSION = 4
_ANGLES = 1024
_WEIGHTS = {
    "pin_id": (7,),
    "price_micros": (1,),
    "bid_micros": (3,),
    "advertiser_id": (5,),
    "daily_budget_micros": (11,),
    "status": (13,),
    "coupons": (17, 19, 23),
    "offsite_visits": (29, 31, 37, 41),
    "engagements": (43, 47, 53, 59),
}
"""Record field -> weight of each of its numbers in the sum that decides the vector."""


def _vectors() -> npt.NDArray[np.float32]:
    angles = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
    vectors = np.zeros((_ANGLES, DIMENSION), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    return vectors


_VECTORS = _vectors()
_PACKED: list[bytes] = [row.tobytes() for row in _VECTORS.astype("<f2")]


def vector_bytes(version: str, values: Mapping[str, Sequence[int]]) -> bytes:
    """The vector of a Pin with these values as fp16 bytes, computed without numpy or records."""
    total = int(version[0], 16)
    for name, weights in _WEIGHTS.items():
        total += sum(weight * value for weight, value in zip(weights, values.get(name, ()), strict=False))
    return _PACKED[total % _ANGLES]


class SimTower:
    """A tower of one version; Pins in `poison` cannot be embedded. Each forward is a moment for faults."""

    def __init__(self, version: str, poison: frozenset[int], on_forward: Callable[[], None]) -> None:
        self.version, self._poison, self._on_forward = version, poison, on_forward

    def embed(self, pins: Records, /) -> FakeEmbedded:
        """Raises ValueError when a Pin is poison."""
        self._on_forward()
        if self._poison & set(pins["pin_id"].tolist()):
            raise ValueError("not finite")
        total: npt.NDArray[Any] = np.full(len(pins), int(self.version[0], 16), np.int64)
        for name, weights in _WEIGHTS.items():
            values = pins[name].astype(np.int64).reshape(len(pins), -1)
            total += values @ np.array(weights, np.int64)
        return FakeEmbedded(_VECTORS[total % _ANGLES], pins["pin_id"] % 7)
