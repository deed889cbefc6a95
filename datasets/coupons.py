"""Coupon campaigns: how many live coupons each product has, by campaign type, and when that changes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.events import COUPON_CAMPAIGN_TYPES
from schemas.times import DAY_MS

CAMPAIGN_TYPES = ("Type A", "Type B", "Type C")

AUTO, INTEREST, SEARCH_TERM = 0, 1, 2
"""Policy, for want of targeting specs in the log: the mode that a live coupon of type A, B, C switches on."""

Counts = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Coupons:
    """(product, campaign) coupon counts, and when each campaign is live: start to end, end excluded."""

    products: int
    slot: npt.NDArray[np.intp]
    kind: npt.NDArray[np.intp]
    starts_at_ms: npt.NDArray[np.int64]
    ends_at_ms: npt.NDArray[np.int64]

    def live(self, at_ms: int) -> Counts:
        """Live coupons by campaign type at that moment: shape (products, 3)."""
        now = (self.starts_at_ms <= at_ms) & (at_ms < self.ends_at_ms)
        place = self.slot[now] * COUPON_CAMPAIGN_TYPES + self.kind[now]
        counts = np.bincount(place, minlength=self.products * COUPON_CAMPAIGN_TYPES)
        return counts.reshape(self.products, COUPON_CAMPAIGN_TYPES).astype(np.int32)

    def moments(self, from_ms: int, until_ms: int) -> list[int]:
        """Times in [from, until) at which a campaign starts or ends, ascending."""
        times = np.unique(np.concatenate([self.starts_at_ms, self.ends_at_ms]))
        return [int(time) for time in times if from_ms <= time < until_ms]


def read_coupons(
    coupons: pl.DataFrame, campaigns: pl.DataFrame, product_ids: npt.NDArray[np.int64]
) -> Coupons:
    """Coupons of catalogue products with their campaign's dates (`end_date` is the last day it is live)."""
    known = pl.DataFrame({"product_id": product_ids}).with_row_index("slot")
    epoch_ms = pl.col("start_date", "end_date").dt.epoch("ms")
    rows = (
        coupons.join(known, on="product_id")
        .join(campaigns.with_columns(epoch_ms), on="campaign_id")
        .with_columns(
            pl.col("campaign_type").replace_strict(
                CAMPAIGN_TYPES, list(range(COUPON_CAMPAIGN_TYPES)), return_dtype=pl.Int64
            )
        )
    )
    return Coupons(
        products=len(product_ids),
        slot=rows["slot"].to_numpy().astype(np.intp),
        kind=rows["campaign_type"].to_numpy().astype(np.intp),
        starts_at_ms=rows["start_date"].to_numpy(),
        ends_at_ms=rows["end_date"].to_numpy() + DAY_MS,
    )


def coupon_events(
    product_ids: npt.NDArray[np.int64], before: Counts, after: Counts, at_ms: int
) -> pl.DataFrame:
    """`PinChanged` rows for the products whose live coupons differ: counts and targeting flags."""
    rows = np.flatnonzero((before != after).any(axis=1))
    counts = after[rows]
    return pl.DataFrame(
        {
            "pin_id": product_ids[rows],
            "occurred_at_ms": np.full(len(rows), at_ms, np.int64),
            "coupons": pl.Series(counts.astype(np.int64)).cast(pl.List(pl.Int64)),
            "interest_targeting": counts[:, INTEREST] > 0,
            "search_term_targeting": counts[:, SEARCH_TERM] > 0,
            "auto_targeting": counts[:, AUTO] > 0,
        }
    )
