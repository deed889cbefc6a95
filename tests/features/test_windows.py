import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.windows import DayCounts
from schemas.events import VISIT_WINDOWS_DAYS
from schemas.times import DAY_MS

FIRST_DAY = 17_000


def _counts(events: list[tuple[int, int]], keys: int = 2, days: int = 120) -> DayCounts:
    """`events`: (key, day after the first)."""
    slots = np.array([key for key, _ in events], np.intp)
    times = np.array([(FIRST_DAY + day) * DAY_MS + 5 for _, day in events], np.int64)
    return DayCounts(slots, times, keys=keys, first_day=FIRST_DAY, days=days)


def _day(day: int) -> int:
    return (FIRST_DAY + day) * DAY_MS


def test_windows_hold_the_days_before_and_not_the_day_itself() -> None:
    # Key 0 on days 0, 93, 99, 100; as of day 100: yesterday is 99, 7 days back is 93, 90 back is 10.
    counts = _counts([(0, 0), (0, 93), (0, 99), (0, 100), (1, 99), (1, 99)])
    assert counts.as_of(_day(100)).tolist() == [[1, 2, 2, 2], [2, 2, 2, 2]]
    assert counts.as_of(_day(101)).tolist() == [[1, 2, 3, 3], [0, 2, 2, 2]]


def test_every_moment_of_a_day_sees_the_same_windows() -> None:
    counts = _counts([(0, 5), (0, 6)])
    assert counts.as_of(_day(6)).tolist() == counts.as_of(_day(7) - 1).tolist()


def test_before_the_first_day_nothing_is_counted_and_after_the_last_windows_stand_still() -> None:
    counts = _counts([(0, 119)])
    assert counts.as_of(_day(-5)).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert counts.as_of(_day(120)).tolist()[0] == [1, 1, 1, 1]


@pytest.mark.parametrize("day", [-1, 120])
def test_an_event_outside_the_days_is_refused(day: int) -> None:
    with pytest.raises(ValueError, match="outside days 17000 to 17119"):
        _counts([(0, day)])


def test_no_events_count_nothing() -> None:
    assert _counts([]).as_of(_day(50)).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 119)), max_size=60), st.integers(0, 120))
def test_windows_are_nested_and_equal_a_count_by_hand(events: list[tuple[int, int]], day: int) -> None:
    windows = _counts(events, keys=4).as_of(_day(day))
    assert (np.diff(windows, axis=1) >= 0).all()
    for key in range(4):
        for place, size in enumerate(VISIT_WINDOWS_DAYS):
            expected = sum(k == key and day - size <= d < day for k, d in events)
            assert windows[key, place] == expected
