import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.day_buckets import ENGAGEMENTS, VISITS, DayBuckets, pack, touched_days, unpack
from features.windows import DayCounts
from schemas.events import VISIT_WINDOWS_DAYS
from schemas.times import DAY_MS

FIRST_DAY = 17_000
_EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 119)), max_size=60)


def _buckets(events: list[tuple[int, int, int]], slots: int = 4) -> DayBuckets:
    """`events`: (slot, kind, day after the first)."""
    columns = np.array(events, np.int64).reshape(-1, 3)
    return unpack([None] * slots).added(columns[:, 0], columns[:, 1], columns[:, 2] + FIRST_DAY)


def test_one_pin_takes_two_bytes_and_four_per_active_day_and_kind() -> None:
    packed = pack(_buckets([(0, VISITS, 5), (0, VISITS, 5), (0, VISITS, 9), (0, ENGAGEMENTS, 5)], slots=2))

    words = np.frombuffer(packed[0], "<u2").tolist()
    assert words == [2, FIRST_DAY + 5, 2, FIRST_DAY + 9, 1, FIRST_DAY + 5, 1]
    assert packed[1] == b""


def test_a_count_beyond_16_bits_takes_several_entries_and_comes_back_whole() -> None:
    one = DayBuckets(1, np.array([0]), np.array([VISITS]), np.array([FIRST_DAY]), np.array([200_000]))

    again = unpack(pack(one))

    assert again.count.tolist() == [65_535, 65_535, 65_535, 3_395]
    assert again.windows(FIRST_DAY + 1)[0, VISITS].tolist() == [200_000] * 4
    assert pack(again) == pack(one)


@pytest.mark.parametrize("count", [65_535, 65_536, 131_070])
def test_counts_at_the_edge_of_an_entry_are_kept(count: int) -> None:
    one = DayBuckets(1, np.array([0]), np.array([ENGAGEMENTS]), np.array([FIRST_DAY]), np.array([count]))
    assert int(unpack(pack(one)).count.sum()) == count


@given(_EVENTS)
def test_packing_and_unpacking_keeps_every_count(events: list[tuple[int, int, int]]) -> None:
    packed = pack(_buckets(events))
    again = unpack([value or None for value in packed])

    assert pack(again) == packed
    assert sorted(
        (slot, kind, day)
        for slot, kind, day, count in zip(
            again.slot.tolist(), again.kind.tolist(), again.day.tolist(), again.count.tolist(), strict=True
        )
        for _ in range(count)
    ) == sorted((slot, kind, day + FIRST_DAY) for slot, kind, day in events)


@given(_EVENTS, st.integers(0, 120))
def test_windows_equal_day_counts_of_each_kind(events: list[tuple[int, int, int]], day: int) -> None:
    windows = unpack(pack(_buckets(events))).windows(FIRST_DAY + day)

    for kind in (VISITS, ENGAGEMENTS):
        mine = [(slot, at) for slot, its, at in events if its == kind]
        slots = np.array([slot for slot, _ in mine], np.intp)
        times = np.array([(FIRST_DAY + at) * DAY_MS for _, at in mine], np.int64)
        counts = DayCounts(slots, times, keys=4, first_day=FIRST_DAY, days=120)
        assert windows[:, kind].tolist() == counts.as_of((FIRST_DAY + day) * DAY_MS).tolist()


def test_a_step_of_one_day_touches_the_ends_of_the_windows_only() -> None:
    assert touched_days(100, 101).tolist() == [10, 70, 93, 99, 100]
    assert touched_days(None, 100).tolist() == list(range(10, 100))


def test_no_day_before_the_epoch_is_touched() -> None:
    assert touched_days(20, 22).tolist() == [13, 14, 19, 20, 21]
    assert touched_days(None, 3).tolist() == [0, 1, 2]
    # Everything that was in a window as of day 1 or later.
    assert touched_days(1, 200).tolist() == list(range(200))


def test_the_first_day_of_a_pin_is_of_either_kind() -> None:
    buckets = _buckets([(0, VISITS, 5), (0, ENGAGEMENTS, 3), (2, VISITS, 9)])
    assert buckets.first_day().tolist() == [FIRST_DAY + 3, -1, FIRST_DAY + 9, -1]
    days = FIRST_DAY + np.array([2, 5, 8, 9])
    first, last = buckets.added(np.array([2]), np.array([VISITS]), np.array([FIRST_DAY + 8])).first_and_last(
        days
    )
    assert first.tolist() == [FIRST_DAY + 5, -1, FIRST_DAY + 8, -1]
    assert last.tolist() == [FIRST_DAY + 5, -1, FIRST_DAY + 9, -1]


@given(_EVENTS, st.integers(91, 115), st.integers(0, 100))
def test_every_pin_whose_windows_change_has_a_touched_day(
    events: list[tuple[int, int, int]], before: int, step: int
) -> None:
    first, last = FIRST_DAY + before, FIRST_DAY + before + step
    # As at the start of the earlier day: what is older was dropped before, later days are kept.
    buckets = _buckets(events).since(first - max(VISIT_WINDOWS_DAYS))
    changed = (buckets.windows(first) != buckets.windows(last)).any(axis=(1, 2))
    assert (buckets.first_and_last(touched_days(first, last))[0][changed] >= 0).all()


def test_without_pins_there_is_nothing() -> None:
    assert pack(unpack([])) == []
    assert unpack([]).windows(5).shape == (0, 2, 4)
