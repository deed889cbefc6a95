"""What the topics have said since a release's snapshots, Pin by Pin: the memory of the delta segment.

Two kinds of row of one order (`embedding_table.newer`): what a Pin's attributes are, whichever tower's
row or state record said so last; and the newest embedding per tower version that is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from features.pin_state import STATUS_CODES
from schemas.manifests import Offsets

from .embedding_table import EmbeddedBatch, EmbeddingTable, newer
from .row_files import Attributes, Matrix

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

_DELETED = STATUS_CODES["deleted"]

NO_VERSION = ""
"""In a batch: rows without an embedding (state records). In the fold: where every row's attributes go."""


@dataclass(frozen=True)
class FreshRows:
    """Rows read from the topics, in the order of each partition."""

    batches: list[EmbeddedBatch]
    upto: Offsets
    """Of the partitions that were read: everything before these offsets has been given."""
    unreadable: int = 0
    """Messages that are no rows: counted and left out. They are the worker's to put aside, not a reader's."""


@dataclass(frozen=True)
class Base:
    """Rows of a release that the fold is compared with, and where each Pin stands in them."""

    attributes: Attributes
    tower_version: str
    _pin_ids: Ints
    _order: Rows | None

    @classmethod
    def of(cls, attributes: Attributes, tower_version: str) -> "Base":
        """Rows in any order; sorted ones (a release of one tier) need no index of their own."""
        pin_ids = np.ascontiguousarray(attributes["pin_id"])
        if (pin_ids[1:] > pin_ids[:-1]).all():
            return cls(attributes, tower_version, pin_ids, None)
        order = np.argsort(pin_ids, kind="stable")
        return cls(attributes, tower_version, pin_ids[order], order)

    def __len__(self) -> int:
        return len(self.attributes)

    def find(self, pin_ids: Ints) -> Ints:
        """Row number of each Pin, -1 for a Pin that is not there."""
        if not len(self._pin_ids):
            return np.full(len(pin_ids), -1, np.int64)
        places = np.minimum(np.searchsorted(self._pin_ids, pin_ids), len(self._pin_ids) - 1)
        rows = places if self._order is None else self._order[places]
        return np.where(self._pin_ids[places] == pin_ids, rows, -1).astype(np.int64)

    def outdated(self, fields: Attributes) -> tuple[Ints, Flags]:
        """The row of each Pin (-1 for none), and whether `fields` are newer than it, or it is not there."""
        rows = self.find(fields["pin_id"])
        there = np.flatnonzero(rows >= 0)
        is_newer = np.ones(len(rows), np.bool_)
        is_newer[there] = newer(_revision(fields, there), _revision(self.attributes, rows[there]))
        return rows, is_newer


def _revision(fields: Attributes, rows: npt.NDArray[np.integer]) -> dict[str, Ints]:
    """The columns that decide which of two rows is newer: whole records take far longer to gather."""
    return {name: fields[name][rows] for name in ("changed_offset", "aggregated_offset")}


class DeltaFold:
    """A function of the set of rows that came, as `EmbeddingTable` is. One thread uses it at a time.

    It holds at most `max_vectors` embeddings of each tower version: a Pin that comes when there is no room
    keeps its older embedding (the release's, if it has one). Attributes are taken in of every Pin. A deleted
    Pin's embedding is scored by nobody: it gives way to one that is, and counts as refused to nobody.
    """

    def __init__(self, max_vectors: int) -> None:
        self.max_vectors = max_vectors
        self.changes = 0
        """Grows whenever a segment built now might differ from one built before."""
        self.refused: dict[str, int] = {}
        """Tower version -> rows whose embedding found no room."""
        self._table = EmbeddingTable()
        self._dimensions: dict[str, int] = {NO_VERSION: 0}
        self._table.keep(self._dimensions)

    @property
    def versions(self) -> list[str]:
        """The tower versions whose embeddings are kept."""
        return [version for version in self._dimensions if version != NO_VERSION]

    @property
    def dimensions(self) -> dict[str, int]:
        """Kept tower version -> length of its vectors."""
        return {version: size for version, size in self._dimensions.items() if version != NO_VERSION}

    def keep(self, dimensions: Mapping[str, int]) -> None:
        """Keep the embeddings of exactly these versions (version -> dimension) from now on."""
        self._dimensions = {NO_VERSION: 0, **dimensions}
        self._table.keep(self._dimensions)
        self.refused = {version: self.refused.get(version, 0) for version in dimensions}
        self.changes += 1

    def apply(self, batch: EmbeddedBatch) -> int:
        """Take rows in, in any order, any number of times; returns how many were news.

        Rows of `NO_VERSION` have empty vectors. Raises ValueError for a kept version's other dimension.
        """
        attributes = replace(
            batch,
            vectors=[b""] * len(batch),
            versions=[NO_VERSION],
            version_code=np.zeros(len(batch), np.uint8),
        )
        applied = self._table.apply(attributes).applied
        if any(version != NO_VERSION for version in batch.versions):
            applied += self._table.apply(self._embeddings(batch)).applied
        self.changes += applied > 0
        return applied

    def attributes(self) -> Attributes:
        """The newest attributes of every Pin that the fold has heard of. A view: copy what must stay."""
        return self._table.attributes(NO_VERSION)

    def titles(self) -> Sequence[str]:
        """In the order of `attributes()`."""
        return self._table.titles(NO_VERSION)

    def slots(self, pin_ids: Ints) -> Rows:
        """Where each Pin stands in `attributes()`, or -1."""
        return self._table.slots(NO_VERSION, pin_ids)

    def embeddings(self, version: str) -> tuple[Attributes, Matrix]:
        """The newest embeddings of one kept version: attributes they were made from, fp16 vectors. Views."""
        return self._table.attributes(version), self._table.vectors(version)

    def histogram(self, version: str, places: Rows) -> dict[str, int]:
        """Those of `embeddings(version)` at these places, by the tower version that each came with."""
        return self._table.histogram(version, places)

    def forget(self, bases: Sequence[Base]) -> None:
        """Drop what none of these releases needs: rows that all of them have, or have newer."""
        self._retain(NO_VERSION, bases)
        for version in self.versions:
            self._retain(version, [base for base in bases if base.tower_version == version])
            self.refused[version] = 0
        self.changes += 1

    def _retain(self, version: str, bases: Sequence[Base]) -> None:
        fields = self._table.attributes(version)
        kept = np.zeros(len(fields), np.bool_)
        for base in bases:
            kept |= base.outdated(fields)[1]
        if bases and not kept.all():
            self._table.retain(version, np.flatnonzero(kept))

    def _embeddings(self, batch: EmbeddedBatch) -> EmbeddedBatch:
        """The rows with an embedding, without those that find no room."""
        taken = np.ones(len(batch), np.bool_)
        for code, version in enumerate(batch.versions):
            rows = np.flatnonzero(batch.version_code == code)
            if version == NO_VERSION:
                taken[rows] = False
            elif version in self.refused:
                live = batch.attributes["status"][rows] != _DELETED
                taken[rows] = self._has_room(version, batch.attributes["pin_id"][rows], live)
                self.refused[version] += int((~taken[rows] & live).sum())
        if taken.all():
            return batch
        places = np.flatnonzero(taken)
        return EmbeddedBatch(
            batch.attributes[places],
            [batch.vectors[place] for place in places.tolist()],
            [batch.titles[place] for place in places.tolist()],
            batch.versions,
            batch.version_code[places],
        )

    def _has_room(self, version: str, pin_ids: Ints, live: Flags) -> Flags:
        if len(pin_ids) <= self.max_vectors - self._table.size(version):
            return np.ones(len(pin_ids), np.bool_)
        held = self._table.attributes(version)
        gone = self._deleted(pin_ids[~live])
        kept = np.flatnonzero((held["status"] != _DELETED) & ~np.isin(held["pin_id"], gone))
        if len(kept) < self._table.size(version):
            self._table.retain(version, kept)
        room = max(self.max_vectors - len(kept), 0)
        there = self._table.slots(version, pin_ids) >= 0
        come, first = np.unique(pin_ids[~there & live], return_index=True)
        return there | (live & np.isin(pin_ids, come[np.argsort(first)][:room]))

    def _deleted(self, pin_ids: Ints) -> Ints:
        """Those of these Pins whose newest attributes say so: a row that does may have come late."""
        status = self.attributes()["status"][self.slots(pin_ids)]
        gone: Ints = pin_ids[status == _DELETED]
        return gone
