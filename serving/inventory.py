"""What one request sees of the Pins: the shape that every place where Pins may lie has to have.

A release in this process (base index and delta segment) is one such place, shards behind a root are
another. Row numbers mean something only to the inventory that gave them.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from schemas.ranking import Coverage

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """What retrieval found. Row i of every part is the same Pin, in the order of `rows`, best first."""

    rows: Rows
    dots: Floats
    """Exact dot products of the query with the rows' L1 vectors, float32."""
    eligible: npt.NDArray[np.bool_]
    """False for a row that became ineligible between mask and search (its budget ran out)."""
    total: int
    """Rows that were looked at, found or not."""
    dropped: dict[str, int]
    """Reason -> rows that retrieval left out, `not_retrieved` among them: with `rows` they make `total`."""


@dataclass(frozen=True)
class Described:
    """What L1 and auction need of some rows, one array a field."""

    pin_id: Rows
    advertiser_id: Rows
    bid_micros: Rows
    daily_budget_micros: Rows
    version_code: npt.NDArray[np.uint8]
    """Each row's own tag, an index into the inventory's `versions`."""
    fresh: npt.NDArray[np.bool_]
    """Whether the row is from the delta segment."""


class LoggedPin(NamedTuple):
    """Attributes of a winner's Pin that its log keeps for training rows and that no auction needs.

    As they were when the answer was made: the snapshot is gone before the row's window is over, and does not
    have what came through the delta segment.
    """

    price_micros: int
    """Of the product, not of the impression."""
    target_ages: int
    """Bit i: the i-th age band."""
    input_mask: int
    """Of the embedding that was scored; bit i: the i-th Pin input of its release had a value."""
    occurred_at_ms: int
    """Newest change that is in these attributes."""


class Inventory(Protocol):
    """One request's view: it does not change from the request's first look to its last."""

    @property
    def versions(self) -> list[str]:
        """The tower versions that rows may be tagged with."""
        ...

    def search(self, query: Floats, age_band: int, at_ms: int, width: int) -> Found:
        """The best `width` rows that may be shown to this age band at this moment."""
        ...

    def describe(self, rows: Rows) -> Described:
        """Attributes of rows that `search` returned."""
        ...

    def titles(self, rows: Rows) -> list[str]:
        """Titles of rows that `search` returned; empty for none."""
        ...

    def logged(self, rows: Rows) -> Rows:
        """Fields of `LoggedPin` of rows that `search` returned, shape (rows, 4)."""
        ...

    def exhaust(self, day: int, rows: Rows) -> None:
        """These rows cannot pay their bid any more on `day`: keep them out of later searches."""
        ...

    def coverage(self) -> Coverage:
        """Which part of the inventory this view is of; asked for after `search`."""
        ...
