"""The newest embedding of every Pin, per live tower version, as growing columns in memory.

Rows arrive in any order and any number of times; of two rows of a Pin the one with the higher
revision stays. So the table is a function of the set of rows that were applied, and of nothing else:
redelivery, replay and a zombie's late rows leave no trace.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .row_files import ATTRIBUTES, SnapshotRows

Ints = npt.NDArray[np.int64]
Slots = npt.NDArray[np.intp]

Revisions = npt.NDArray[np.void] | Mapping[str, Ints]
"""Rows, or only their columns `changed_offset` and `aggregated_offset`."""

_FIRST_CAPACITY = 1024


@dataclass(frozen=True)
class EmbeddedBatch:
    """Decoded rows of pin.embedded.v1, in arrival order. Row i of every part is the same row.

    `vectors[i]` is little-endian fp16; `version_code[i]` is an index into `versions`.
    """

    attributes: npt.NDArray[np.void]
    vectors: Sequence[bytes]
    titles: Sequence[str]
    versions: Sequence[str]
    version_code: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.attributes)

    def part(self, start: int, stop: int) -> "EmbeddedBatch":
        """The rows from `start` up to `stop`."""
        return EmbeddedBatch(
            self.attributes[start:stop],
            self.vectors[start:stop],
            self.titles[start:stop],
            self.versions,
            self.version_code[start:stop],
        )


@dataclass(frozen=True)
class Applied:
    """What became of the rows of a batch."""

    applied: int = 0
    """Rows that are in the table now, or were until a later one of the same batch."""
    late: int = 0
    """Rows older than what was there: a zombie's, or out of order."""
    repeated: int = 0
    """Rows that were there already: redelivery."""
    foreign: int = 0
    """Rows of a tower version that is not live."""

    def __add__(self, other: "Applied") -> "Applied":
        return Applied(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class _VersionTable:
    """Rows of one tower version. `changed` says whether any row has come since the last cut."""

    def __init__(self, version: str, dimension: int) -> None:
        self.version = version
        self.slots: dict[int, int] = {}
        self.attributes: npt.NDArray[np.void] = np.zeros(_FIRST_CAPACITY, ATTRIBUTES)
        self.vectors: npt.NDArray[np.float16] = np.zeros((_FIRST_CAPACITY, dimension), "<f2")
        self.titles: list[str] = []
        # What each row's own batch said of its version: the homogeneity gate counts these.
        self.tags: npt.NDArray[np.object_] = np.full(_FIRST_CAPACITY, version, np.object_)
        self.changed = False

    def __len__(self) -> int:
        return len(self.slots)

    def apply(self, batch: EmbeddedBatch, rows: Slots) -> Applied:
        """Apply these rows of the batch; each Pin keeps its newest."""
        fields = batch.attributes[rows]
        order = _by_pin_and_age(fields)
        last_of_pin = np.append(np.diff(fields["pin_id"][order]) != 0, [True])
        winners = order[last_of_pin]
        slots = self._slots_of(fields["pin_id"][winners])
        stored = self.attributes[slots]
        is_newer = newer(fields[winners], stored)
        counts = _count(fields, order, last_of_pin, stored)
        self._write(slots[is_newer], batch, rows[winners[is_newer]])
        self.changed = self.changed or bool(is_newer.any())
        return counts

    def fold(self, rows: SnapshotRows) -> int:
        """Take over a snapshot's rows, one a Pin, that are as new as ours or newer; how many are newer.

        NOTE: of equals the snapshot's stays, so that it does not matter which of them came first.
        """
        slots = self._slots_of(rows.attributes["pin_id"])
        stored = self.attributes[slots]
        is_newer = newer(rows.attributes, stored)
        taken = np.flatnonzero(~newer(stored, rows.attributes))
        differs = (self.vectors[slots[taken]] != rows.vectors[taken]).any()
        self.changed = self.changed or bool(is_newer.any() or differs)
        self.attributes[slots[taken]] = rows.attributes[taken]
        self.vectors[slots[taken]] = rows.vectors[taken]
        self.tags[slots[taken]] = np.array(rows.versions, np.object_)[rows.version_code[taken]]
        titles = rows.titles.to_pylist()
        for row in taken.tolist():
            self.titles[slots[row]] = titles[row]
        return int(is_newer.sum())

    def _slots_of(self, pin_ids: Ints) -> Slots:
        """Slot of each Pin; a new Pin gets one that holds a row older than any."""
        known, before = self.slots, len(self.slots)
        slots = np.array([known.setdefault(pin, len(known)) for pin in pin_ids.tolist()], np.intp)
        if (added := len(known) - before) > 0:
            self._grow_to(len(known))
            for name in ("changed_offset", "aggregated_offset"):
                # Below the revision of any row: offsets are at least -1.
                self.attributes[name][before : len(known)] = -2
            self.titles.extend([""] * added)
        return slots

    def _grow_to(self, size: int) -> None:
        capacity = len(self.attributes)
        while capacity < size:
            capacity *= 2
        if capacity > len(self.attributes):
            more = capacity - len(self.attributes)
            self.attributes = np.concatenate([self.attributes, np.zeros(more, ATTRIBUTES)])
            empty = np.zeros((more, self.vectors.shape[1]), "<f2")
            self.vectors = np.concatenate([self.vectors, empty])
            self.tags = np.concatenate([self.tags, np.full(more, self.version, np.object_)])

    def _write(self, slots: Slots, batch: EmbeddedBatch, rows: Slots) -> None:
        self.attributes[slots] = batch.attributes[rows]
        packed = b"".join([batch.vectors[row] for row in rows.tolist()])
        self.vectors[slots] = np.frombuffer(packed, "<f2").reshape(len(rows), self.vectors.shape[1])
        self.tags[slots] = np.array(batch.versions, np.object_)[batch.version_code[rows]]
        for slot, row in zip(slots.tolist(), rows.tolist(), strict=True):
            self.titles[slot] = batch.titles[row]


def _by_pin_and_age(fields: npt.NDArray[np.void]) -> Slots:
    """Row order by Pin, and within a Pin oldest first; of equals the one that came first is last."""
    arrival = np.arange(len(fields))
    revision = fields["changed_offset"] + fields["aggregated_offset"]
    return np.lexsort((-arrival, fields["changed_offset"], revision, fields["pin_id"]))


def newer(one: Revisions, other: Revisions) -> npt.NDArray[np.bool_]:
    """Whether each row is newer than its counterpart.

    NOTE: a worker that died between two sources may fold them in another order when it comes back,
    and so make two different rows of one revision; the changed offset then decides, everywhere alike.
    """
    mine = one["changed_offset"] + one["aggregated_offset"]
    theirs = other["changed_offset"] + other["aggregated_offset"]
    decides = one["changed_offset"] > other["changed_offset"]
    found: npt.NDArray[np.bool_] = (mine > theirs) | ((mine == theirs) & decides)
    return found


def _count(
    fields: npt.NDArray[np.void],
    order: Slots,
    last_of_pin: npt.NDArray[np.bool_],
    stored: npt.NDArray[np.void],
) -> Applied:
    """Split the rows into applied, late and repeated; `stored` is what each Pin had before them."""
    group: Slots = np.cumsum(last_of_pin) - last_of_pin
    rows, winners, before = fields[order], order[last_of_pin][group], stored[group]
    behind = newer(before, rows) | (newer(fields[winners], rows) & (order > winners))
    ahead = newer(rows, before) & ~behind
    same_as_winner = ~newer(fields[winners], rows) & (order != winners)
    applied = int((ahead & ~same_as_winner).sum())
    late = int(behind.sum())
    return Applied(applied=applied, late=late, repeated=len(rows) - applied - late)


class EmbeddingTable:
    """The newest row of every Pin for each of the live tower versions; rows of others stay out."""

    def __init__(self) -> None:
        self._tables: dict[str, _VersionTable] = {}

    @property
    def versions(self) -> list[str]:
        """The tower versions that are kept."""
        return list(self._tables)

    def keep(self, dimensions: Mapping[str, int]) -> list[str]:
        """Keep exactly these versions (version -> dimension) from now on; returns those that are new."""
        new = [version for version in dimensions if version not in self._tables]
        self._tables = {
            version: self._tables.get(version) or _VersionTable(version, dimension)
            for version, dimension in dimensions.items()
        }
        return new

    def apply(self, batch: EmbeddedBatch) -> Applied:
        """Apply the rows of the versions that are kept. Raises ValueError for another dimension."""
        counts = Applied()
        for code, version in enumerate(batch.versions):
            rows = np.flatnonzero(batch.version_code == code)
            table = self._tables.get(version)
            if table is None:
                counts += Applied(foreign=len(rows))
            elif len(rows):
                counts += table.apply(batch, rows)
        return counts

    def load(self, version: str, rows: SnapshotRows, changed: bool = False) -> None:
        """Start a kept version from a snapshot's rows (of that version only).

        `changed` says that the snapshot had others besides: what is durable is not what is here.
        """
        attributes = rows.attributes
        table = _VersionTable(version, rows.vectors.shape[1])
        table._grow_to(len(attributes))
        table.attributes[: len(attributes)] = attributes
        table.vectors[: len(attributes)] = rows.vectors
        table.titles = rows.titles.to_pylist()
        table.slots = {pin: slot for slot, pin in enumerate(attributes["pin_id"].tolist())}
        table.changed = changed
        self._tables[version] = table

    def fold(self, version: str, rows: SnapshotRows) -> int:
        """Merge a snapshot's rows (of that version only) into a kept version; how many were newer."""
        return self._tables[version].fold(rows)

    def rows(self, version: str) -> SnapshotRows:
        """The rows of one version, deleted Pins included, in no particular order. Views, not copies."""
        table = self._tables[version]
        count = len(table)
        return SnapshotRows(
            attributes=table.attributes[:count],
            vectors=table.vectors[:count],
            versions=[version],
            version_code=np.zeros(count, np.uint8),
            titles=pa.array(table.titles, pa.string()),
        )

    def size(self, version: str) -> int:
        """Pins of one version."""
        return len(self._tables[version])

    def attributes(self, version: str) -> npt.NDArray[np.void]:
        """Attributes of one version, in the order of `rows(version)`. A view."""
        return self._tables[version].attributes[: self.size(version)]

    def vectors(self, version: str) -> npt.NDArray[np.float16]:
        """Embeddings of one version, in the same order. A view, not a copy."""
        return self._tables[version].vectors[: self.size(version)]

    def titles(self, version: str) -> Sequence[str]:
        """Titles of one version, in the same order: the table's own list, which goes on changing."""
        return self._tables[version].titles

    def histogram(self, version: str, places: Slots) -> dict[str, int]:
        """The rows at these places by the tower version that each of them came with."""
        return dict(Counter(self._tables[version].tags[places].tolist()))

    def slots(self, version: str, pin_ids: Ints) -> Slots:
        """Where each Pin stands in that order, or -1. It stays there until `retain`."""
        known = self._tables[version].slots
        return np.fromiter(map(known.get, pin_ids.tolist(), repeat(-1)), np.intp, len(pin_ids))

    def retain(self, version: str, places: Slots) -> None:
        """Forget all rows of a version but those at these places."""
        old = self._tables[version]
        table = _VersionTable(version, old.vectors.shape[1])
        table._grow_to(len(places))
        table.attributes[: len(places)] = old.attributes[places]
        table.vectors[: len(places)] = old.vectors[places]
        table.titles = [old.titles[place] for place in places.tolist()]
        pins = old.attributes["pin_id"][places].tolist()
        table.slots = {pin: slot for slot, pin in enumerate(pins)}
        table.tags[: len(places)] = old.tags[places]
        table.changed = old.changed
        self._tables[version] = table

    def changed(self, version: str) -> bool:
        """Whether any row of the version has been applied since `mark_cut`."""
        return self._tables[version].changed

    def mark_cut(self, version: str) -> None:
        """The version's rows are in a durable snapshot."""
        self._tables[version].changed = False

    def covers(self, version: str, other: str) -> bool:
        """Whether `version` has a row for every Pin that `other` has."""
        return self._tables[other].slots.keys() <= self._tables[version].slots.keys()
