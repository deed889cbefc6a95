"""Whether a tower version is complete enough for a snapshot of it to be cut.

Several tower versions are live during a rollover, and after a rollback. A snapshot of one of them takes
nothing back of what is served when two things hold for each other live version: the version has a row of
every Pin that the other has a row of, and no row is older than the row that the other had at its own
previous cut.

The other version's rows of that moment count, not its rows of now. A worker embeds a batch of changes with
one tower after the other, so in the middle of a batch the newest rows of one version are always ahead of the
next version's.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.embedding_table import EmbeddingTable, newer

from .murmur2 import partitions_of
from .sources import Ints

NAMED = 10
"""How many of the missing Pins a message or a status names."""

# What of a row tells which of two rows of a Pin is the newer.
_REVISION = np.dtype([("pin_id", "<i8"), ("changed_offset", "<i8"), ("aggregated_offset", "<i8")])


@dataclass(frozen=True)
class Coverage:
    """How much one tower version has of the Pins of another."""

    pins: int
    """Pins of the other version that this version has a row of."""
    of: int
    """All Pins of the other version."""
    behind: int
    """Pins whose row of this version is older than the other version's row was at its previous cut."""
    missing: Ints
    """Ids of the Pins of the other version that this version has no row of, ascending."""

    @property
    def lacks(self) -> str:
        """What keeps this version from being cut, in words; empty when nothing does."""
        said = []
        if len(self.missing):
            some = ", ".join(map(str, self.missing[:NAMED].tolist()))
            more = ", …" if len(self.missing) > NAMED else ""
            said.append(f"no row of {len(self.missing)} of {self.of} Pins ({some}{more})")
        if self.behind:
            said.append(f"older rows than were cut before of {self.behind} Pins")
        return "; ".join(said)


class CutGate:
    """Compares the tower versions in a cutter's table, and remembers which rows each had at its last cut."""

    def __init__(self, table: EmbeddingTable) -> None:
        self._table = table
        self._cut: dict[str, npt.NDArray[np.void]] = {}

    def keep(self, versions: Collection[str]) -> None:
        """Forget the last cuts of all versions but these."""
        self._cut = {version: rows for version, rows in self._cut.items() if version in versions}

    def remember(self, version: str) -> None:
        """Note that the rows which the table has of the version now are those of its last cut."""
        attributes = self._table.attributes(version)
        rows: npt.NDArray[np.void] = np.empty(len(attributes), _REVISION)
        for name in _REVISION.names or ():
            rows[name] = attributes[name]
        self._cut[version] = rows

    def take_stock(self) -> None:
        """Note the rows of now as those of the last cut, for each version that was cut before.

        Called when another tower is taken up. It has no rows of what changed since the others' last cut,
        while nothing was embedded with it. Compared with that cut, it would be taken for complete without
        those changes.
        """
        for version in list(self._cut):
            self.remember(version)

    def coverage(self, version: str, other: str) -> Coverage:
        """How much `version` has of the Pins of `other`."""
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

        A version that was cut before is not compared with one that never was: the serving tower is cut
        whatever keeps a candidate from its first cut.
        """
        for other in self._table.versions:
            if other == version or (version in self._cut and other not in self._cut):
                continue
            if said := self.coverage(version, other).lacks:
                return f"{said}, compared with tower {other[:12]}"
        return ""

    def shares(self, version: str, other: str, partitions: int) -> dict[int, float]:
        """Partition -> the share of `other`'s Pins on it that `version` has. One without Pins is left out."""
        pins = self._table.attributes(other)["pin_id"]
        has = self._table.slots(version, pins) >= 0
        numbers = partitions_of(pins, partitions)
        all_of = np.bincount(numbers, minlength=partitions)
        covered = np.bincount(numbers[has], minlength=partitions)
        return {n: float(covered[n] / all_of[n]) for n in np.flatnonzero(all_of).tolist()}

    def _behind(self, version: str, other: str) -> int:
        """Pins whose row of `version` is older than the row that `other` had at its last cut."""
        before = self._cut.get(other)
        if before is None:
            return 0
        slots = self._table.slots(version, before["pin_id"])
        known = slots >= 0
        return int(newer(before[known], self._table.attributes(version)[slots[known]]).sum())
