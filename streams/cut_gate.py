"""Whether a tower version is complete enough to be cut: with a row of every Pin, none older than served ones.

A candidate is compared with what the other live versions had at their previous cut: rows of one batch
are sent tower after tower, so in the middle of a batch it is behind their newest rows by as much.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.embedding_table import EmbeddingTable, newer

from .murmur2 import partitions_of
from .sources import Ints

NAMED = 10
"""So many missing Pins are named."""

_REVISION = np.dtype([("pin_id", "<i8"), ("changed_offset", "<i8"), ("aggregated_offset", "<i8")])


@dataclass(frozen=True)
class Coverage:
    """What one version has of another's Pins."""

    pins: int
    of: int
    behind: int
    """Pins whose row is older than the other's was at its previous cut."""
    missing: Ints

    @property
    def lacks(self) -> str:
        """What is missing, in words; empty when nothing is."""
        said = []
        if len(self.missing):
            some = ", ".join(map(str, self.missing[:NAMED].tolist()))
            more = ", …" if len(self.missing) > NAMED else ""
            said.append(f"no row of {len(self.missing)} of {self.of} Pins ({some}{more})")
        if self.behind:
            said.append(f"older rows than were cut before of {self.behind} Pins")
        return "; ".join(said)


class CutGate:
    """Compares the versions of a table, and remembers what each had when it was cut last."""

    def __init__(self, table: EmbeddingTable) -> None:
        self._table = table
        self._cut: dict[str, npt.NDArray[np.void]] = {}

    def keep(self, versions: Collection[str]) -> None:
        """Forget all other versions."""
        self._cut = {version: rows for version, rows in self._cut.items() if version in versions}

    def remember(self, version: str) -> None:
        """The version was cut, or resumed from a cut, as the table has it now."""
        attributes = self._table.attributes(version)
        rows: npt.NDArray[np.void] = np.empty(len(attributes), _REVISION)
        for name in _REVISION.names or ():
            rows[name] = attributes[name]
        self._cut[version] = rows

    def take_stock(self) -> None:
        """Another tower is taken up: what those that were cut before have now is what it is compared with.

        What changed since their last cut, while it was away, would otherwise be missed for one cut.
        """
        for version in list(self._cut):
            self.remember(version)

    def coverage(self, version: str, other: str) -> Coverage:
        """What `version` has of the Pins of `other`."""
        pins = self._table.attributes(other)["pin_id"]
        lacks = self._table.slots(version, pins) < 0
        return Coverage(
            pins=int(len(pins) - lacks.sum()),
            of=len(pins),
            behind=self._behind(version, other),
            missing=np.sort(pins[lacks]),
        )

    def lacks(self, version: str) -> str:
        """Why the version is not to be cut, in words; empty when it is complete.

        One that has been cut before does not wait for one that never was: a candidate's trouble is none
        of the serving tower's.
        """
        for other in self._table.versions:
            if other == version or (version in self._cut and other not in self._cut):
                continue
            if said := self.coverage(version, other).lacks:
                return f"{said}, compared with tower {other[:12]}"
        return ""

    def shares(self, version: str, other: str, partitions: int) -> dict[int, float]:
        """Partition -> share of the Pins of `other` on it that `version` has; empty ones are left out."""
        pins = self._table.attributes(other)["pin_id"]
        has = self._table.slots(version, pins) >= 0
        numbers = partitions_of(pins, partitions)
        all_of = np.bincount(numbers, minlength=partitions)
        covered = np.bincount(numbers[has], minlength=partitions)
        return {n: float(covered[n] / all_of[n]) for n in np.flatnonzero(all_of).tolist()}

    def _behind(self, version: str, other: str) -> int:
        before = self._cut.get(other)
        if before is None:
            return 0
        slots = self._table.slots(version, before["pin_id"])
        known = slots >= 0
        return int(newer(before[known], self._table.attributes(version)[slots[known]]).sum())
