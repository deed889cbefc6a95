"""Purchases: engagements, offsite-visit windows and prices, all point in time."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from features.windows import DayCounts
from schemas.events import VISIT_WINDOWS_DAYS
from schemas.times import DAY_MS

from .weeks import YEAR_START_MS, week_start_ms

YEAR_DAYS = 366
"""The last week ends on the first of January at 05:00."""


@dataclass(frozen=True)
class Purchases:
    """Purchase rows sorted by time: `slot` is the product's row in the catalogue."""

    products: int
    frame: pl.DataFrame
    """slot, household_id, basket_id, product_id, quantity, value_micros, week, occurred_at_ms."""

    @cached_property
    def _bought(self) -> npt.NDArray[np.intp]:
        return np.unique(self.frame["slot"].to_numpy()).astype(np.intp)

    @cached_property
    def _days(self) -> DayCounts:
        row = np.searchsorted(self._bought, self.frame["slot"].to_numpy())
        return DayCounts(
            row,
            self.frame["occurred_at_ms"].to_numpy(),
            keys=len(self._bought),
            first_day=YEAR_START_MS // DAY_MS,
            days=YEAR_DAYS,
        )

    def visits(self, at_ms: int) -> npt.NDArray[np.int32]:
        """Purchases in the 1, 7, 30 and 90 whole days before that day: shape (products, 4)."""
        windows = np.zeros((self.products, len(VISIT_WINDOWS_DAYS)), np.int32)
        if len(self._bought):
            windows[self._bought] = self._days.as_of(at_ms)
        return windows

    @cached_property
    def _medians(self) -> dict[int, tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]]:
        unit = (pl.col("value_micros") / pl.col("quantity")).median().round().cast(pl.Int64)
        medians = (
            self.frame.filter(pl.col("value_micros") > 0)
            .group_by("week", "slot")
            .agg(unit.alias("price"))
            .sort("week", "slot")
        )
        return {
            int(week[0]): (part["slot"].to_numpy().astype(np.intp), part["price"].to_numpy())
            for week, part in medians.partition_by("week", as_dict=True).items()
        }

    def prices(self, week: int, before: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Prices at the week's start: the median unit price paid in the week before, else as `before`."""
        now = before.copy()
        if week - 1 in self._medians:
            slots, medians = self._medians[week - 1]
            now[slots] = medians
        return now

    def all_prices(self, week: int) -> npt.NDArray[np.int64]:
        """Prices at the week's start from every earlier week; 0 for a product not yet sold."""
        now = np.zeros(self.products, np.int64)
        for earlier in range(1, week + 1):
            now = self.prices(earlier, now)
        return now

    def engagements(self) -> pl.DataFrame:
        """`EngagementObserved` fields, with `basket_id` and `week` beside them, in time order."""
        return self.frame.select(
            pl.col("household_id").alias("user_id"),
            pl.col("product_id").alias("pin_id"),
            "occurred_at_ms",
            pl.lit("purchase").alias("kind"),
            "quantity",
            "value_micros",
            "basket_id",
            "week",
        )


def read_purchases(transactions: pl.DataFrame, product_ids: npt.NDArray[np.int64]) -> Purchases:
    """Rows with a positive quantity (0.6 % have none) of catalogue products (0.3 % are of others)."""
    known = pl.DataFrame({"product_id": product_ids}).with_row_index("slot")
    frame = (
        transactions.filter(pl.col("quantity") > 0)
        .join(known, on="product_id")
        .select(
            "slot",
            "household_id",
            "basket_id",
            "product_id",
            "quantity",
            (pl.col("sales_value") * 1e6).round().cast(pl.Int64).alias("value_micros"),
            "week",
            pl.col("transaction_timestamp").dt.epoch("ms").alias("occurred_at_ms"),
        )
        .sort("occurred_at_ms", "household_id", "basket_id", "product_id")
    )
    return Purchases(len(product_ids), frame)


def visit_events(
    product_ids: npt.NDArray[np.int64],
    before: npt.NDArray[np.int32],
    after: npt.NDArray[np.int32],
    at_ms: int,
) -> pl.DataFrame:
    """`PinAggregated` rows for the products whose windows differ."""
    rows = np.flatnonzero((before != after).any(axis=1))
    return pl.DataFrame(
        {
            "pin_id": product_ids[rows],
            "occurred_at_ms": np.full(len(rows), at_ms, np.int64),
            "offsite_visits": pl.Series(after[rows].astype(np.int64)).cast(pl.List(pl.Int64)),
        }
    )


def price_events(
    product_ids: npt.NDArray[np.int64],
    before: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    week: int,
) -> pl.DataFrame:
    """`PinChanged` rows for the products whose price differs, at the week's start."""
    rows = np.flatnonzero(before != after)
    return pl.DataFrame(
        {
            "pin_id": product_ids[rows],
            "occurred_at_ms": np.full(len(rows), week_start_ms(week), np.int64),
            "price_micros": after[rows],
        }
    )
