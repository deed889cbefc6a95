"""The Complete Journey as one stream of Pin changes in event time, and its baskets as queries.

What changes, and on which day, is real. The log has no finer time than a week for placements and prices
and than a day for coupons and visit windows, so the minute is policy: placements, prices and coupons
arrive within the hour after they come into force, each Pin's windows once a day, at a moment that is a
hash of its id.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from datasets.catalogue import titles
from datasets.complete_journey import PIN_AGGREGATED_COLUMNS, Journey
from datasets.purchases import visit_events
from datasets.training_rows import PinStates, Window, training_rows
from datasets.weeks import week_start_ms
from evaluation.compare import baskets
from features.examples import Examples
from features.pin_state import AGGREGATED, CHANGED, Records
from schemas.times import DAY_MS

from .freshness_skew_clock import HOUR_MS, Ints, uniform
from .freshness_skew_rows import Slots

_CHANGED_SALT, _WINDOWS_SALT = 11, 12


@dataclass(frozen=True)
class Step:
    """The Pins that changed in a step, each once, and when the last of its events came."""

    slots: Slots
    arrived_ms: Ints


class Stream:
    """The states of all Pins at the start of `first_week`, and every change up to the end of `last_week`."""

    def __init__(self, journey: Journey, first_week: int, last_week: int) -> None:
        self.start_ms, self.end_ms = week_start_ms(first_week), week_start_ms(last_week + 1)
        self.pin_ids = journey.product_ids
        self.titles = titles(journey.products)
        self._states = PinStates(self.pin_ids)
        later: list[pl.DataFrame] = []
        for week in journey.journey_events(first_week, last_week):
            now = pl.col("occurred_at_ms") <= self.start_ms
            self._states.apply(week.changed.filter(now), CHANGED)
            self._states.apply(week.aggregated.filter(now), AGGREGATED)
            later.append(week.changed.filter(~now))
        self._changed = _arriving(pl.concat(later), HOUR_MS, _CHANGED_SALT)
        self._windows = _arriving(self._daily_windows(journey), DAY_MS, _WINDOWS_SALT)
        self._read = [0, 0]

    def _daily_windows(self, journey: Journey) -> pl.DataFrame:
        """Visit windows as of each midnight, where they differ from the midnight before."""
        frames, before = [], journey.purchases.visits(self.start_ms)
        first_midnight = -(-self.start_ms // DAY_MS) * DAY_MS
        for midnight in range(first_midnight, self.end_ms - DAY_MS + 1, DAY_MS):
            after = journey.purchases.visits(midnight)
            frames.append(visit_events(self.pin_ids, before, after, midnight))
            before = after
        rows = pl.concat([pl.DataFrame(schema=PIN_AGGREGATED_COLUMNS), *frames], how="diagonal_relaxed")
        return rows.select(PIN_AGGREGATED_COLUMNS.names()).cast(PIN_AGGREGATED_COLUMNS)

    @property
    def records(self) -> Records:
        """The live states, by ascending Pin id; they move as steps are taken."""
        return self._states.records

    @property
    def arrivals_ms(self) -> Ints:
        """Arrival of every event of the stream."""
        both = [frame["occurred_at_ms"].to_numpy() for frame in (self._changed, self._windows)]
        return np.concatenate(both)

    def take(self, until_ms: int) -> Step:
        """Fold everything that arrived before `until_ms` and was not taken yet."""
        slots, times = [], []
        for place, (frame, source) in enumerate(((self._changed, CHANGED), (self._windows, AGGREGATED))):
            end = int(frame["occurred_at_ms"].search_sorted(until_ms, side="left"))
            part = frame[self._read[place] : end]
            self._read[place] = end
            self._states.apply(part, source)
            slots.append(np.searchsorted(self.pin_ids, part["pin_id"].to_numpy()))
            times.append(part["occurred_at_ms"].to_numpy())
        pins, place_of = np.unique(np.concatenate(slots), return_inverse=True)
        last = np.zeros(len(pins), np.int64)
        np.maximum.at(last, place_of, np.concatenate(times))
        return Step(pins.astype(np.intp), last)


def _arriving(events: pl.DataFrame, within_ms: int, salt: int) -> pl.DataFrame:
    """The events in order of arrival: at most `within_ms` after they came into force, by their Pin's hash."""
    delay = np.floor(uniform(events["pin_id"].to_numpy(), salt) * within_ms).astype(np.int64)
    moved = events.with_columns(occurred_at_ms=pl.col("occurred_at_ms") + pl.Series(delay))
    return moved.sort("occurred_at_ms", maintain_order=True)


@dataclass(frozen=True)
class Queries:
    """Baskets in time order: who asked, when, and which Pins were then bought."""

    examples: Examples
    bought: list[Ints]

    def __len__(self) -> int:
        return len(self.bought)

    @property
    def at_ms(self) -> Ints:
        """When each was asked."""
        return self.examples.contexts["occurred_at_ms"]

    @property
    def users(self) -> Ints:
        """Who asked."""
        return self.examples.users["user_id"]

    def subset(self, rows: Slots) -> "Queries":
        """The chosen ones (ascending)."""
        return Queries(self.examples.subset(rows), [self.bought[row] for row in rows.tolist()])


def all_queries(journey: Journey, first_week: int, last_week: int) -> Queries:
    """Every basket of these weeks; its household is as it was just before it."""
    examples = training_rows(journey, Window(first_week, last_week, sampled_pins=0))
    return Queries(examples, baskets(examples))


def spans(marks: set[int], start_ms: int, end_ms: int) -> Iterator[tuple[int, int]]:
    """Consecutive marks within the stretch, its two ends included."""
    inside = sorted({start_ms, end_ms, *(mark for mark in marks if start_ms < mark < end_ms)})
    yield from itertools.pairwise(inside)
