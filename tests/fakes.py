"""Stand-ins that behave: a tower whose vectors are a plain function of the record."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from features.pin_state import Records
from schemas.errors import RetryableError


@dataclass(frozen=True)
class FakeEmbedded:
    """What `FakePinTower.embed` gives."""

    vectors: npt.NDArray[np.float32]
    input_mask: npt.NDArray[np.int64]


@dataclass(frozen=True)
class FakePinTower:
    """Unit vectors in the plane of the first two axes, at an angle that Pin id, price and version decide.

    It refuses a Pin whose id is in `poison`, as a real tower refuses what gives no finite vector.
    """

    version: str = "a" * 64
    dimension: int = 4
    inputs: tuple[str, ...] = ("pin_id", "price")
    poison: frozenset[int] = frozenset()

    def embed(self, pins: Records, /) -> FakeEmbedded:
        """Raises ValueError when a Pin is poison."""
        if self.poison & set(pins["pin_id"].tolist()):
            raise ValueError("not finite")
        angle = pins["pin_id"] + pins["price_micros"] / 1e6 + int(self.version[:4], 16)
        vectors = np.zeros((len(pins), self.dimension), np.float32)
        vectors[:, 0], vectors[:, 1] = np.cos(angle), np.sin(angle)
        return FakeEmbedded(vectors, 1 + 2 * (pins["price_micros"] != 0).astype(np.int64))


@dataclass(frozen=True)
class FullPinTower(FakePinTower):
    """Its device has no memory for a single Pin, the first so many times."""

    times: list[int] = field(default_factory=lambda: [1])

    def embed(self, pins: Records, /) -> FakeEmbedded:
        """Raises RetryableError while `times` is above 0."""
        if self.times[0]:
            self.times[0] -= 1
            raise RetryableError("cuda has no memory to embed a single Pin")
        return super().embed(pins)
