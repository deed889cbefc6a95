"""The Pins of one release in this process, as one request sees them."""

import threading
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from index.delta_fold import Base
from index.vector_index import Bitmap
from schemas.manifests import ReleaseManifest
from schemas.ranking import Coverage

from .eligibility import Eligibility, Rule
from .inventory import Described, Found, LoggedPin

Records = npt.NDArray[np.void]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_FEW_TITLES = 64
"""Up to so many are cheaper one by one than Arrow's `take` is to call."""


class SearchableIndex(Protocol):
    """What serving needs of `index.loading.LoadedIndex`."""

    @property
    def manifest(self) -> ReleaseManifest:
        """The release that the index belongs to."""
        ...

    @property
    def tower_version(self) -> str:
        """The version that every row was proved to be of."""
        ...

    @property
    def versions(self) -> list[str]:
        """The distinct tower versions of the rows."""
        ...

    @property
    def version_code(self) -> npt.NDArray[np.uint8]:
        """Each row's own tag, an index into `versions`."""
        ...

    @property
    def attributes(self) -> Records:
        """`index.snapshots.ATTRIBUTES`, one row a Pin."""
        ...

    @property
    def vectors(self) -> npt.NDArray[np.float16]:
        """L1 matrix, shape (rows, dimension)."""
        ...

    @property
    def titles(self) -> pa.StringArray:
        """Titles, in row order."""
        ...

    def close(self) -> None:
        """Let go of the memory."""
        ...

    def search(self, query: Floats, k: int, allowed: Bitmap | None) -> tuple[Floats, Rows]:
        """Dot products and row numbers of the k best allowed rows."""
        ...


class Ads:
    """What an auction needs of every row, side by side: gathering a row touches one line of the cache."""

    __slots__ = ("_table",)

    def __init__(self, attributes: Records) -> None:
        names = ("pin_id", "advertiser_id", "bid_micros", "daily_budget_micros")
        self._table = np.stack([attributes[name] for name in names], axis=1)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def pin_id(self) -> Rows:
        """The Pin of every row."""
        return self._table[:, 0]

    def take(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Pin, advertiser, bid and daily budget of these rows, shape (rows, 4)."""
        return self._table.take(rows, axis=0)


Delta = Literal["patched", "superseded", "new"]


@dataclass(frozen=True)
class Standing:
    """How one Pin stands in a view: whether it may be shown, its vector, what the delta segment does."""

    rule: Rule
    vector: npt.NDArray[np.float16]
    delta: Delta | None = None


class LocalInventory:
    """A release's own rows, and nothing newer. See `serving.inventory.Inventory`."""

    def __init__(self, index: SearchableIndex, ads: Ads, eligibility: Eligibility) -> None:
        self.index = index
        self._ads = ads
        self.eligibility = eligibility
        self._base: Base | None = None
        self._closed = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Rows of the release."""
        return len(self._ads)

    @property
    def versions(self) -> list[str]:
        """See `Inventory`."""
        return self.index.versions

    def base(self) -> Base | None:
        """The rows, to be found by Pin; made when first asked for. None once they are let go of."""
        with self._lock:
            if self._base is None and not self._closed:
                self._base = Base.of(self.index.attributes, self.index.tower_version)
            return self._base

    def close(self) -> None:
        """Let go of what was made of the rows; the index itself is closed by whoever opened it."""
        with self._lock:
            self._base, self._closed = None, True
            self._ads = Ads(self.index.attributes[:0])

    def search(self, query: Floats, age_band: int, at_ms: int, width: int) -> Found:
        """See `Inventory`."""
        mask = self.eligibility.mask(age_band, at_ms)
        _, rows = self.index.search(query, width, mask.bitmap)
        total = len(mask.codes)
        dropped = dict(mask.dropped)
        dropped["not_retrieved"] = total - sum(dropped.values()) - len(rows)
        return Found(
            rows=rows,
            # Between two searches the caches are cold: `take` costs a third of `[rows]` there.
            dots=exact_dots(self.index.vectors.take(rows, axis=0), query),
            eligible=mask.codes.take(rows) == Rule.ELIGIBLE,
            total=total,
            dropped={reason: count for reason, count in dropped.items() if count},
        )

    def pin_ids(self, rows: Rows) -> Rows:
        """The Pin of each row."""
        return self._ads.pin_id[rows]

    def describe(self, rows: Rows) -> Described:
        """See `Inventory`."""
        fresh = np.zeros(len(rows), np.bool_)
        return described(self._ads.take(rows), self.index.version_code.take(rows), fresh)

    def fields(self, rows: Rows) -> npt.NDArray[np.int64]:
        """See `Ads.take`."""
        return self._ads.take(rows)

    def standing(self, pin_id: int, age_band: int, at_ms: int) -> Standing | None:
        """How a Pin stands for this age band at this moment; None for one that is not there."""
        row = self.row_of(pin_id)
        if row < 0:
            return None
        return Standing(self.eligibility.rule(row, age_band, at_ms), self.index.vectors[row])

    def row_of(self, pin_id: int) -> int:
        """The row of a Pin, -1 for one that is not there."""
        base = self.base()
        return -1 if base is None else int(base.find(np.array([pin_id]))[0])

    def titles(self, rows: Rows) -> list[str]:
        """See `Inventory`."""
        titles = self.index.titles
        if len(rows) <= _FEW_TITLES:
            return [titles[row].as_py() or "" for row in rows.tolist()]
        # All at once: a leaf asks for a thousand, and one by one they cost more than the search.
        return [title or "" for title in titles.take(pa.array(rows, pa.int64())).to_pylist()]

    def logged(self, rows: Rows) -> Rows:
        """See `Inventory`."""
        return logged_fields(self.index.attributes, rows)

    def exhaust(self, day: int, rows: Rows) -> None:
        """See `Inventory`."""
        self.eligibility.exhaust(day, rows)

    def coverage(self) -> Coverage:
        """See `Inventory`."""
        return Coverage(pins=len(self))


def described(
    fields: npt.NDArray[np.int64], version_code: npt.NDArray[np.uint8], fresh: npt.NDArray[np.bool_]
) -> Described:
    """Rows of `Ads.take` and what else is known of them."""
    return Described(fields[:, 0], fields[:, 1], fields[:, 2], fields[:, 3], version_code, fresh)


def logged_fields(attributes: Records, rows: Rows) -> Rows:
    """Fields of `LoggedPin` of these rows, shape (rows, 4)."""
    # Whole records first: one field of all rows lies too far apart to be taken row by row.
    taken = attributes.take(rows)
    return np.stack([taken[name].astype(np.int64) for name in LoggedPin._fields], axis=1)


def exact_dots(vectors: npt.NDArray[np.float16], query: Floats) -> Floats:
    """Dot products of `query` with each row, in float32: the same bits wherever the row stands.

    NOTE: not `@`, whose BLAS rounds a row by where it stands in the matrix. A Pin scores the same in this
    process, in the delta segment and on a shard, or orders and prices would depend on where it lies.
    """
    # torch widens fp16 with the processor's own instruction, numpy in software (9 times as long).
    dots: Floats = np.einsum("nd,d->n", torch.from_numpy(vectors).float().numpy(), query)
    return dots
