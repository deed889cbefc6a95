"""The auction: who is shown, in which order, at which price. Pure; knows arrays of integers and nothing else.

Generalised second price with quality weights (Edelman, Ostrovsky and Schwarz 2007; Varian 2007). Ads are
ranked by utility = bid x pctr, and a winner pays the smallest bid that would have kept its place.

Everything is integer arithmetic: money in micros, pctr in parts per billion. A bid of up to
`EXACT_INT64_BID_MICROS` keeps bid x pctr below 2^63; above it the same lines run on Python integers.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from schemas.errors import Refused

Ints = npt.NDArray[np.int64]

PARTS_PER_BILLION = 1_000_000_000
EXACT_INT64_BID_MICROS = 2**33
"""2^33 micros x 10^9 < 2^63. Micros end at 2^53, so the wide case exists and is exact as well."""

Fate = Literal["won", "ineligible", "no_bid", "below_reserve", "budget_exhausted", "advertiser_cap", "outbid"]


@dataclass(frozen=True)
class AuctionPolicy:
    """What the auction is held under: policy, not data."""

    reserve_micros: int = 1_000
    max_per_advertiser: int = 2

    def __post_init__(self) -> None:
        if self.reserve_micros < 1 or self.max_per_advertiser < 1:
            raise Refused(
                "auction_policy",
                expected="a reserve and an advertiser cap of at least 1",
                came=f"reserve_micros={self.reserve_micros}, max_per_advertiser={self.max_per_advertiser}",
                fix="Set both to 1 or more.",
            )


@dataclass(frozen=True)
class Candidates:
    """Who takes part; row i of every array is one ad. Pin ids are distinct.

    `remaining_micros` is what is left of the ad's daily budget; `eligible` is what was decided before
    (status, flight dates, targeting). `pctr_ppb` is 1 … 10^9.
    """

    pin_id: Ints
    advertiser_id: Ints
    bid_micros: Ints
    pctr_ppb: Ints
    remaining_micros: Ints
    eligible: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Win:
    """A winner: its row among the candidates, what it pays, and whose bid set that (None: the reserve)."""

    row: int
    price_micros: int
    priced_by_pin: int | None


@dataclass(frozen=True)
class AuctionResult:
    """Winners by position, and what became of every candidate."""

    wins: tuple[Win, ...]
    fates: list[Fate]
    utilities: npt.NDArray[np.integer | np.object_]
    """bid_micros x pctr_ppb, by row."""

    def dropped(self) -> dict[str, int]:
        """Fate -> how many candidates met it, winners left out."""
        counts: dict[str, int] = dict(Counter(self.fates))
        counts.pop("won", None)
        return counts


def pctr_parts_per_billion(pctr: npt.NDArray[np.float64]) -> Ints:
    """Probabilities as integers 1 … 10^9; NaN, which no calibration should give, becomes 1."""
    # fmax and fmin take the number where the other side is NaN.
    parts = np.fmin(np.fmax(np.rint(pctr * PARTS_PER_BILLION), 1), PARTS_PER_BILLION)
    return parts.astype(np.int64)


def hold_auction(candidates: Candidates, slots: int, policy: AuctionPolicy) -> AuctionResult:
    """Rank, cap and price. Depends on the candidates as a set: their order changes nothing.

    Ties of utility go to the lower Pin id. At most `policy.max_per_advertiser` ads of one advertiser win.
    """
    fates, bidders = _fates_before_bidding(candidates, policy)
    utility = _utilities(candidates)
    order = _by_utility(candidates.pin_id, utility, bidders)
    ranked = _Ranked(
        rows=order,
        utilities=utility.tolist(),
        pins=candidates.pin_id.tolist(),
        advertisers=candidates.advertiser_id.tolist(),
        pctr_ppb=candidates.pctr_ppb.tolist(),
    )
    wins: list[Win] = []
    shown: dict[int, int] = {}
    for place, row in enumerate(order):
        if len(wins) == slots:
            break
        advertiser = ranked.advertisers[row]
        if shown.get(advertiser, 0) >= policy.max_per_advertiser:
            fates[row] = "advertiser_cap"
            continue
        wins.append(_price(ranked, place, shown, policy))
        shown[advertiser] = shown.get(advertiser, 0) + 1
        fates[row] = "won"
    return AuctionResult(tuple(wins), fates, utility)


@dataclass(frozen=True)
class _Ranked:
    """Rows of the bidders, best first, and the columns as Python integers."""

    rows: list[int]
    utilities: list[int]
    pins: list[int]
    advertisers: list[int]
    pctr_ppb: list[int]


def _fates_before_bidding(
    candidates: Candidates, policy: AuctionPolicy
) -> tuple[list[Fate], npt.NDArray[np.intp]]:
    """Why a candidate may not bid, «outbid» until it wins for those that may; and the rows of those."""
    bids = candidates.bid_micros
    fates: list[Fate] = ["outbid"] * len(bids)
    barred = ~candidates.eligible | (bids < policy.reserve_micros) | (candidates.remaining_micros < bids)
    for row in np.flatnonzero(barred).tolist():
        if not candidates.eligible[row]:
            fates[row] = "ineligible"
        elif bids[row] <= 0:
            fates[row] = "no_bid"
        else:
            fates[row] = "below_reserve" if bids[row] < policy.reserve_micros else "budget_exhausted"
    return fates, np.flatnonzero(~barred)


def _utilities(candidates: Candidates) -> npt.NDArray[np.integer | np.object_]:
    """Bid x pctr, exact: 64-bit where it fits, Python integers where it would not."""
    bids = candidates.bid_micros
    wide = len(bids) > 0 and int(bids.max()) > EXACT_INT64_BID_MICROS
    product: npt.NDArray[np.integer | np.object_] = (
        bids.astype(object) if wide else bids
    ) * candidates.pctr_ppb
    return product


def _by_utility(
    pins: Ints, utility: npt.NDArray[np.integer | np.object_], rows: npt.NDArray[np.intp]
) -> list[int]:
    """`rows` by falling utility, ties by rising Pin id."""
    order = rows[np.argsort(pins[rows], kind="stable")]
    best_first: list[int] = order[np.argsort(-utility[order], kind="stable")].tolist()
    return best_first


def _price(ranked: _Ranked, place: int, shown: dict[int, int], policy: AuctionPolicy) -> Win:
    """The smallest bid that would have kept `place`, given the winners before it (`shown`).

    The rival is the next bidder that could take the place: one whose advertiser is not yet at the cap
    with the winners before. A rival with a lower Pin id wins ties, so it must be beaten and not met.
    """
    row = ranked.rows[place]
    for rival in ranked.rows[place + 1 :]:
        if shown.get(ranked.advertisers[rival], 0) < policy.max_per_advertiser:
            to_reach = ranked.utilities[rival] + (ranked.pins[rival] < ranked.pins[row])
            price = -(-to_reach // ranked.pctr_ppb[row])
            if price < policy.reserve_micros:
                break
            return Win(row, price, ranked.pins[rival])
    return Win(row, policy.reserve_micros, None)
