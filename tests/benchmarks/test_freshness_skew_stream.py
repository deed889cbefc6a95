from pathlib import Path

import numpy as np

from benchmarks.freshness_skew_clock import HOUR_MS
from benchmarks.freshness_skew_stream import Stream, all_queries, spans
from datasets.training_rows import pins_at_start
from datasets.weeks import week_start_ms
from schemas.times import DAY_MS
from tests.datasets.tiny_journey import TinyTables

_VALUES = ("price_micros", "display_stores", "mailer_stores", "coupons", "offsite_visits", "advertiser_id")


def test_the_stream_ends_in_the_states_that_the_loader_gives(tmp_path: Path) -> None:
    journey = TinyTables().write(tmp_path)
    stream = Stream(journey, 3, 4)
    taken = stream.take(week_start_ms(5) - 1)
    assert len(taken.slots) > 0
    # Everything of week 4 has arrived: only what the loader knows at the start of week 5 is missing.
    expected, found = pins_at_start(journey, 4), stream.records
    for name in ("price_micros", "display_stores", "mailer_stores", "coupons", "advertiser_id"):
        assert (found[name] == expected[name]).all(), name
    day = (week_start_ms(5) - 1) // DAY_MS * DAY_MS
    assert (found["offsite_visits"] == journey.purchases.visits(day - DAY_MS)).all()


def test_the_stream_opens_as_the_week_does(tmp_path: Path) -> None:
    journey = TinyTables().write(tmp_path)
    expected, found = pins_at_start(journey, 3), Stream(journey, 3, 4).records
    for name in _VALUES:
        assert (found[name] == expected[name]).all(), name


def test_a_change_arrives_within_the_hour_and_the_windows_within_the_day(tmp_path: Path) -> None:
    journey = TinyTables().write(tmp_path)
    stream = Stream(journey, 2, 4)
    changes = stream._changed["occurred_at_ms"].to_numpy()
    monday = week_start_ms(3)
    burst = changes[(changes >= monday) & (changes < monday + HOUR_MS)]
    assert len(burst) > 0
    assert (np.diff(stream.arrivals_ms[: len(changes)]) >= 0).all()
    assert stream.arrivals_ms.min() >= stream.start_ms
    assert stream.arrivals_ms.max() < stream.end_ms


def test_steps_hand_out_every_event_once_and_each_pin_once_a_step(tmp_path: Path) -> None:
    journey = TinyTables().write(tmp_path)
    whole, halves = Stream(journey, 2, 4), Stream(journey, 2, 4)
    middle = week_start_ms(3) + 30 * 60_000
    all_at_once = whole.take(whole.end_ms)
    first, second = halves.take(middle), halves.take(halves.end_ms)
    assert (first.arrived_ms < middle).all()
    assert (second.arrived_ms >= middle).all()
    assert set(first.slots.tolist()) | set(second.slots.tolist()) == set(all_at_once.slots.tolist())
    assert len(set(all_at_once.slots.tolist())) == len(all_at_once.slots)
    for name in _VALUES:
        assert (whole.records[name] == halves.records[name]).all(), name
    assert len(halves.take(halves.end_ms).slots) == 0


def test_queries_are_the_weeks_baskets_in_time_order(tmp_path: Path) -> None:
    journey = TinyTables().write(tmp_path)
    queries = all_queries(journey, 3, 4)
    assert len(queries) == 2 * 4 * 2  # weeks, households, baskets a week
    assert (np.diff(queries.at_ms) >= 0).all()
    some = queries.subset(np.array([1, 4], np.intp))
    assert (some.at_ms == queries.at_ms[[1, 4]]).all()
    assert [bought.tolist() for bought in some.bought] == [queries.bought[row].tolist() for row in (1, 4)]


def test_spans_run_from_end_to_end_over_the_marks_inside() -> None:
    assert list(spans({0, 3, 7, 10, 12}, 1, 10)) == [(1, 3), (3, 7), (7, 10)]
