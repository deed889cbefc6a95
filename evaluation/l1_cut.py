"""What the L1 cut costs: how many of the ads that an uncut auction would sell survive the cut.

The reference is never the funnel's own winners, every one of which passed L1 by construction. It is the
same auction held over *all* eligible Pins, with neither retrieval nor L1 in front of it.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from models.calibration import probabilities
from schemas.manifests import Calibration
from serving.auction import AuctionPolicy, Candidates, hold_auction, pctr_parts_per_billion

Records = npt.NDArray[np.void]
Rows = npt.NDArray[np.intp]

_UNCUT_BIDDERS = 2_000
"""Bidders that the reference auction looks at, best utility first: no lower one can win a few slots."""


@dataclass(frozen=True)
class L1CutPolicy:
    """Width of the cut, ads on a page, and the auction's rules."""

    keep: int = 200
    slots: int = 10
    auction: AuctionPolicy = field(default_factory=AuctionPolicy)


@dataclass(frozen=True)
class CutRecall:
    """Mean share of the uncut auction's winners that each cut of `keep` Pins lets through."""

    queries: int
    keep: int
    slots: int
    pins: int
    l1: float
    bid_only: float
    random: float


def cut_recall(
    attributes: Records,
    vectors: npt.NDArray[np.floating],
    eligible: npt.NDArray[np.bool_],
    queries: npt.NDArray[np.float32],
    calibration: Calibration,
    policy: L1CutPolicy,
    *,
    seed: int,
) -> CutRecall:
    """Recall of three cuts against the uncut auction: by L1 score, by bid alone, at random.

    Shapes: `attributes` (N,) with pin_id, advertiser_id and bid_micros, `vectors` (N, D), `eligible` (N,),
    `queries` (Q, D). Budgets are taken as ample. Raises ValueError when nobody is eligible.
    """
    rows = np.flatnonzero(eligible & (attributes["bid_micros"] >= policy.auction.reserve_micros))
    if not len(rows):
        raise ValueError("no Pin is eligible")
    bids = attributes["bid_micros"][rows]
    by_bid = rows[np.lexsort((attributes["pin_id"][rows], -bids))][: policy.keep]
    matrix = vectors[rows].astype(np.float32)
    generator = np.random.default_rng(seed)
    found = np.zeros((len(queries), 3))
    for number, query in enumerate(queries):
        dots = matrix @ query
        pctr_ppb = pctr_parts_per_billion(probabilities(dots, calibration))
        winners = _winners(attributes, rows, pctr_ppb, policy)
        by_l1 = rows[np.argsort(-dots, kind="stable")[: policy.keep]]
        at_random = generator.choice(rows, min(policy.keep, len(rows)), replace=False)
        for column, kept in enumerate((by_l1, by_bid, at_random)):
            found[number, column] = np.isin(winners, kept).mean()
    l1, bid_only, random = found.mean(axis=0).tolist()
    return CutRecall(len(queries), policy.keep, policy.slots, len(rows), l1, bid_only, random)


def _winners(attributes: Records, rows: Rows, pctr_ppb: npt.NDArray[np.int64], policy: L1CutPolicy) -> Rows:
    """Rows that win the auction over all of `rows`."""
    utility = attributes["bid_micros"][rows].astype(np.float64) * pctr_ppb
    best = np.argsort(-utility, kind="stable")[:_UNCUT_BIDDERS]
    bidders = rows[best]
    ads = attributes[bidders]
    candidates = Candidates(
        pin_id=ads["pin_id"],
        advertiser_id=ads["advertiser_id"],
        bid_micros=ads["bid_micros"],
        pctr_ppb=pctr_ppb[best],
        remaining_micros=np.full(len(bidders), np.iinfo(np.int64).max),
        eligible=np.ones(len(bidders), np.bool_),
    )
    sale = hold_auction(candidates, policy.slots, policy.auction)
    return bidders[[win.row for win in sale.wins]]
