"""One answered request, in plain values: what the response, the log and an explanation are made of."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from schemas.ranking import Coverage, RankRequest
from schemas.tiers import VersionPolicy

from .auction import AuctionResult
from .inventory import LoggedPin
from .user_reader import Asker

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_NO_IDS: Ids = np.empty(0, np.int64)
_NO_DOTS: Floats = np.empty(0, np.float32)


@dataclass(frozen=True)
class Stage:
    """What one stage took in, let through and cost."""

    stage: str
    candidates_in: int
    candidates_out: int
    duration_seconds: float
    dropped: dict[str, int]


@dataclass(frozen=True)
class Sold:
    """One winner, as it was scored and priced."""

    pin_id: int
    advertiser_id: int
    tower_version: str
    """Of this row's embedding, from its own tag in the index that was scored."""
    title: str
    dot: float
    pctr: float
    bid_micros: int
    price_micros: int
    priced_by_pin: int | None
    daily_budget_micros: int
    """The whole day's, not what is left of it."""
    pin: LoggedPin
    fresh: bool
    """Whether it is from the delta segment: changed since the release's snapshots."""


@dataclass(frozen=True)
class Provenance:
    """What answered: read from the objects that computed and held the vectors, not from a pointer on disk."""

    release_id: str
    snapshot_id: str
    registry_hash: str
    query_tower_version: str
    """Of the tower object that computed the query embedding."""
    pin_tower_version: str
    """What the index was proved to be of when it was loaded."""
    version_policy: VersionPolicy = "enforce"
    """The release's own."""


@dataclass(frozen=True)
class Ranked:
    """One answered request, with all that the response, the log and an explanation are made of.

    It outlives the lease, so it holds nothing of the release.
    """

    request: RankRequest
    request_id: str
    occurred_at_ms: int
    served_at_ms: int
    duration_seconds: float
    provenance: Provenance
    asker: Asker
    query: Floats
    retrieved_pins: Ids
    retrieved_dots: Floats
    """Exact, from the L1 vectors; in the order of `retrieved_pins`."""
    shortlist_pins: Ids
    sale: AuctionResult
    """Rows of the sale are positions in `shortlist_pins`."""
    ads: tuple[Sold, ...]
    stages: tuple[Stage, ...]
    version_mix: dict[str, int] = field(default_factory=dict)
    """Pins scored for this answer, by the tower version of their row's own tag."""
    coverage: Coverage | None = None
    """Which part of the inventory it was chosen from."""

    def without_candidates(self) -> "Ranked":
        """The same without what only an explanation is made of: small enough to wait in a queue."""
        return replace(
            self,
            retrieved_pins=_NO_IDS,
            retrieved_dots=_NO_DOTS,
            shortlist_pins=_NO_IDS,
            sale=AuctionResult((), [], _NO_IDS),
        )
