"""Events -> training examples, point in time: nothing at or after a query's time reaches its features.

Both states are made by the folds that serve: a Pin's by `features.pin_state.fold` over the same
frames that the replayer sends to Kafka, a user's by `features.user_state.fold_engagements`.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from features.examples import Examples
from features.pin_changes import changes_from_frame, fold
from features.pin_state import AGGREGATED, CHANGED, Records, empty_records, stable_hash
from features.user_state import contexts, fold_engagements

from .complete_journey import Journey, WeekEvents

_SIZE_CLASSES = (4, 16, 64, 100_000)
"""Sessions are folded in classes of like length: the fold's cost grows with its longest row."""


class PinStates:
    """The states of all Pins, moved forward through the events of one week after another."""

    def __init__(self, pin_ids: npt.NDArray[np.int64]) -> None:
        self.records = empty_records(pin_ids)
        self._titles = [b""] * len(pin_ids)
        self._next_offset = 0

    def apply(self, frame: pl.DataFrame, source: str) -> None:
        """Fold a frame of `PinChanged` (source CHANGED) or `PinAggregated` (AGGREGATED) rows in."""
        if frame.height == 0:
            return
        changes = changes_from_frame(frame, source)
        slots = np.searchsorted(self.records["pin_id"], changes.pin_id)
        offsets = np.arange(self._next_offset, self._next_offset + frame.height, dtype=np.int64)
        self._next_offset += frame.height
        fold(self.records, self._titles, slots, changes, offsets, changes.occurred_at_ms)

    def at_starts(self, events: Iterable[WeekEvents]) -> Iterator[tuple[int, Records]]:
        """(week, states at the week's start): events up to and at that moment, none later.

        NOTE: the array is the live one; copy what you keep.
        """
        for week in events:
            now = pl.col("occurred_at_ms") <= week.starts_at_ms
            for frame, source in ((week.changed, CHANGED), (week.aggregated, AGGREGATED)):
                self.apply(frame.filter(now), source)
            yield week.week, self.records
            for frame, source in ((week.changed, CHANGED), (week.aggregated, AGGREGATED)):
                self.apply(frame.filter(~now), source)


@dataclass(frozen=True)
class Sessions:
    """Engagements of one user at one moment (a basket), in time order.

    Session i engaged with `pins[bounds[i]:bounds[i + 1]]`, each Pin once.
    """

    user: npt.NDArray[np.intp]
    occurred_at_ms: npt.NDArray[np.int64]
    week: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]
    pins: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user)


def sessions(engagements: pl.DataFrame, user_ids: npt.NDArray[np.int64], last_week: int) -> Sessions:
    """Baskets up to and including `last_week`; two baskets of a user at the same moment are one."""
    rows = (
        engagements.filter(pl.col("week") <= last_week)
        .select("occurred_at_ms", "user_id", "pin_id", "week")
        .unique(["occurred_at_ms", "user_id", "pin_id"], keep="first")
        .sort("occurred_at_ms", "user_id", "pin_id")
    )
    times, users = rows["occurred_at_ms"].to_numpy(), rows["user_id"].to_numpy()
    if len(times) == 0:
        none = np.zeros(0, np.int64)
        return Sessions(none.astype(np.intp), none, none, np.zeros(1, np.int64), none)
    is_first = np.concatenate([[True], (times[1:] != times[:-1]) | (users[1:] != users[:-1])])
    starts = np.flatnonzero(is_first)
    return Sessions(
        user=np.searchsorted(user_ids, users[starts]),
        occurred_at_ms=times[starts],
        week=rows["week"].to_numpy()[starts],
        bounds=np.append(starts, len(times)).astype(np.int64),
        pins=rows["pin_id"].to_numpy(),
    )


@dataclass(frozen=True)
class PinCategories:
    """The narrowest category (hash) of every Pin, by ascending Pin id."""

    pin_ids: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint32]

    def of(self, pins: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """Categories of known Pins; 0 for -1."""
        row = np.searchsorted(self.pin_ids, np.maximum(pins, self.pin_ids[0]))
        return np.where(pins < 0, np.uint32(0), self.hashes[row])


def pin_categories(products: pl.DataFrame) -> PinCategories:
    """Categories of a catalogue that is sorted by `product_id`; 0 where it names none."""
    types = products["product_type"]
    known = {name: stable_hash(name) for name in types.unique().drop_nulls()}
    hashes = types.replace_strict(known, default=0, return_dtype=pl.UInt32).to_numpy()
    return PinCategories(products["product_id"].to_numpy(), hashes)


def users_before(
    users: Records, visits: Sessions, categories: PinCategories, keep: npt.NDArray[np.intp]
) -> Records:
    """The user of each session in `keep` (ascending) as of just before it; `users` moves to the end.

    Round k folds the k-th session of every user, so the number of rounds is that of the busiest user.
    """
    by_user = np.argsort(visits.user, kind="stable")
    starts = np.searchsorted(visits.user[by_user], visits.user[by_user])
    rank = np.empty(len(visits), np.intp)
    rank[by_user] = np.arange(len(visits)) - starts
    by_rank = np.argsort(rank, kind="stable")
    edges = np.searchsorted(rank[by_rank], np.arange(rank.max(initial=-1) + 2))
    place = np.full(len(visits), -1, np.intp)
    place[keep] = np.arange(len(keep))
    before: Records = np.zeros(len(keep), users.dtype)
    for first, after in itertools.pairwise(edges):
        here = by_rank[first:after]
        kept = here[place[here] >= 0]
        before[place[kept]] = users[visits.user[kept]]
        _fold_sessions(users, visits, categories, here)
    return before


def _fold_sessions(
    users: Records, visits: Sessions, categories: PinCategories, chosen: npt.NDArray[np.intp]
) -> None:
    """Fold sessions of different users in, those of like length together."""
    sizes = visits.bounds[chosen + 1] - visits.bounds[chosen]
    shorter = 0
    for longest in _SIZE_CLASSES:
        alike = chosen[(sizes > shorter) & (sizes <= longest)]
        shorter = longest
        if len(alike) == 0:
            continue
        starts, ends = visits.bounds[alike], visits.bounds[alike + 1]
        places = starts[:, None] + np.arange((ends - starts).max())
        pins = np.where(places < ends[:, None], visits.pins[np.minimum(places, len(visits.pins) - 1)], -1)
        fold_engagements(users, visits.user[alike], pins, categories.of(pins), visits.occurred_at_ms[alike])


@dataclass(frozen=True)
class Window:
    """The weeks, both included, whose baskets are queries; or `queries` of them, drawn at random."""

    first_week: int
    last_week: int
    sampled_pins: int = 2_000
    """Size of each week's uniform sample of the catalogue."""
    queries: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.first_week <= self.last_week:
            raise ValueError(f"weeks {self.first_week} to {self.last_week} are no window")


def training_rows(journey: Journey, window: Window, events: Iterable[WeekEvents] | None = None) -> Examples:
    """Every basket of the window as a query: its household just before it, the Pins at its week's start.

    Histories go back to the year's first basket. `events` (by default the journey's own) must cover
    the window's weeks and state what was so before them in its first frame.
    """
    users = journey.users()
    visits = sessions(journey.engagements(), users["user_id"], window.last_week)
    keep = np.flatnonzero(visits.week >= window.first_week)
    generator = np.random.default_rng(window.seed)
    if window.queries is not None and window.queries < len(keep):
        keep = np.sort(generator.choice(keep, window.queries, replace=False))
    before = users_before(users, visits, pin_categories(journey.products), keep)

    sizes = visits.bounds[keep + 1] - visits.bounds[keep]
    pair_query = np.repeat(np.arange(len(keep)), sizes)
    offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    pair_id = visits.pins[np.repeat(visits.bounds[keep], sizes) + offsets]
    if events is None:
        events = journey.journey_events(window.first_week, window.last_week)
    pins = _pin_rows(journey.product_ids, events, visits.week[keep][pair_query], pair_id, window, generator)
    return Examples(
        users=before,
        contexts=contexts(before, visits.occurred_at_ms[keep]),
        query_period=visits.week[keep],
        pins=pins.records,
        pin_period=pins.week,
        is_sampled=pins.is_sampled,
        pair_query=pair_query,
        pair_pin=pins.pair_pin,
        catalogue_size=len(journey.product_ids),
    )


@dataclass(frozen=True)
class _PinRows:
    records: Records
    week: npt.NDArray[np.int64]
    is_sampled: npt.NDArray[np.bool_]
    pair_pin: npt.NDArray[np.intp]


def _pin_rows(
    pin_ids: npt.NDArray[np.int64],
    events: Iterable[WeekEvents],
    pair_week: npt.NDArray[np.int64],
    pair_id: npt.NDArray[np.int64],
    window: Window,
    generator: np.random.Generator,
) -> _PinRows:
    """States at each week's start: of the Pins in that week's pairs, and of a sample of all Pins."""
    pair_pin = np.zeros(len(pair_id), np.intp)
    records, weeks, sampled, rows = [], [], [], 0
    for week, states in PinStates(pin_ids).at_starts(events):
        here = np.flatnonzero(pair_week == week)
        drawn = generator.choice(len(pin_ids), min(window.sampled_pins, len(pin_ids)), replace=False)
        slots = np.union1d(np.searchsorted(pin_ids, pair_id[here]), drawn)
        pair_pin[here] = rows + np.searchsorted(pin_ids[slots], pair_id[here])
        records.append(states[slots])
        weeks.append(np.full(len(slots), week, np.int64))
        sampled.append(np.isin(slots, drawn))
        rows += len(slots)
    return _PinRows(np.concatenate(records), np.concatenate(weeks), np.concatenate(sampled), pair_pin)


def pins_at_start(journey: Journey, week: int) -> Records:
    """The states of all Pins at a week's start, by ascending id."""
    for _, states in PinStates(journey.product_ids).at_starts(journey.journey_events(week, week)):
        return states.copy()
    raise ValueError(f"no events in week {week}")
