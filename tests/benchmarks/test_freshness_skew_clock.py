import numpy as np

from benchmarks.freshness_skew_clock import (
    HOUR_MS,
    WEEK_MS,
    Timeline,
    code_at,
    next_hour,
    next_multiple,
    uniform,
)


def test_a_version_counts_from_the_moment_of_its_switch_on() -> None:
    assert code_at((10, 20), np.array([9, 10, 19, 20, 99])).tolist() == [0, 1, 1, 2, 2]
    assert code_at((), 5).tolist() == [0]


def test_the_next_hour_of_a_full_hour_is_itself() -> None:
    assert next_hour(np.array([0, 1, HOUR_MS, HOUR_MS + 1])).tolist() == [0, HOUR_MS, HOUR_MS, 2 * HOUR_MS]
    assert next_multiple(np.array([0, 1, 999, 1000]), 1000).tolist() == [0, 1000, 1000, 1000]


def test_hours_of_a_timeline_leave_its_start_out() -> None:
    assert Timeline(HOUR_MS, 3 * HOUR_MS + 5, ()).hours() == [2 * HOUR_MS, 3 * HOUR_MS]


def test_after_the_last_checkpoint_another_comes_every_week() -> None:
    timeline = Timeline(0, 100, (50, 60))
    found = timeline.next_ready(np.array([0, 50, 51, 60, 61, 60 + WEEK_MS, 61 + WEEK_MS]))
    assert found.tolist() == [50, 50, 60, 60, 60 + WEEK_MS, 60 + WEEK_MS, 60 + 2 * WEEK_MS]


def test_hashes_are_even_and_depend_on_the_salt() -> None:
    ids = np.arange(10_000)
    one, other = uniform(ids, 1), uniform(ids, 2)
    assert ((one >= 0) & (one < 1)).all()
    assert abs(one.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
    assert (one == uniform(ids, 1)).all()
