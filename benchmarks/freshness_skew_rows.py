"""The rows that a design shows to queries, and the tower outputs that it copies them from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .freshness_skew_clock import Codes

Matrix = npt.NDArray[np.float32]
Slots = npt.NDArray[np.intp]


class Tables(Protocol):
    """What each tower makes of every Pin's present state."""

    def rows(self, version: int, slots: Slots) -> Matrix:
        """Vectors of these Pins by this tower, as fp16 holds them."""
        ...


@dataclass(frozen=True)
class Patch:
    """Some Pins' rows, kept as they were when this was taken. `vectors` is None where only clocks count."""

    slots: Slots
    codes: Codes
    vectors: Matrix | None


class Shown:
    """One row a Pin: its vector and the ordinal of its tower version. `before_change` is called first."""

    def __init__(self, pins: int, vectors: Matrix | None) -> None:
        self.codes: Codes = np.zeros(pins, np.int8)
        self.vectors = vectors
        self.before_change: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self.codes)

    def counts(self, versions: int) -> npt.NDArray[np.int64]:
        """Rows of each version."""
        return np.bincount(self.codes, minlength=versions).astype(np.int64)

    def write(self, patch: Patch) -> None:
        """Put these rows in."""
        if not len(patch.slots):
            return
        self.before_change()
        self.codes[patch.slots] = patch.codes
        if self.vectors is not None and patch.vectors is not None:
            self.vectors[patch.slots] = patch.vectors

    def part(self, slots: Slots) -> Patch:
        """These rows as they are."""
        vectors = None if self.vectors is None else self.vectors[slots]
        return Patch(slots, self.codes[slots], vectors)

    def take(self, tables: Tables, slots: Slots, codes: Codes | int) -> Patch:
        """These Pins' rows by the towers `codes`, as they come out now."""
        wanted = np.broadcast_to(np.asarray(codes, np.int8), slots.shape)
        if self.vectors is None:
            return Patch(slots, wanted.copy(), None)
        vectors = np.empty((len(slots), self.vectors.shape[1]), np.float32)
        for version in np.unique(wanted).tolist():
            here = wanted == version
            vectors[here] = tables.rows(version, slots[here])
        return Patch(slots, wanted.copy(), vectors)


@dataclass
class Costs:
    """What a design did, to be multiplied with what each of it costs."""

    update_forwards: int = 0
    """Pins through a tower because they changed."""
    dual_forwards: int = 0
    """Of those, the second time for a candidate."""
    bulk_forwards: int = 0
    """Pins through a tower although they had not changed."""
    releases: int = 0
    """Whole indexes written, built and loaded."""
    shards: int = 0
    """Hourly shards written and loaded."""

    @property
    def forwards(self) -> int:
        """All of them."""
        return self.update_forwards + self.bulk_forwards


@dataclass
class Waiting:
    """Patches that become visible at a later moment."""

    patches: list[tuple[int, Patch]] = field(default_factory=list)

    def put(self, at_ms: int, patch: Patch) -> None:
        """Show it from `at_ms` on."""
        self.patches.append((at_ms, patch))

    def due(self, now_ms: int) -> list[Patch]:
        """Those whose time has come, in the order in which they were put."""
        due = [patch for at_ms, patch in self.patches if at_ms <= now_ms]
        self.patches = [one for one in self.patches if one[0] > now_ms]
        return due
