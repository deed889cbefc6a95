import numpy as np
import pytest

from schemas.times import HOUR_MS
from streams.cut_policy import CutPolicy, Due, EventTimeCut, WallClockCut

H = HOUR_MS


def _times(*hours: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([int(hour * H) for hour in hours], np.int64)


def _cuts(policy: CutPolicy, *hours: float, now_ms: int = 0) -> list[tuple[int, int]]:
    """(row, hour) of every cut among rows of these hours."""
    cuts: list[tuple[int, int]] = []
    start, times = 0, _times(*hours)
    while True:
        due, policy = policy.step(times[start:], now_ms)
        if due is None:
            return cuts
        start += due.row
        cuts.append((start, due.hour_ms // H))


def test_the_first_row_of_a_later_hour_closes_the_hour_before_it() -> None:
    assert _cuts(EventTimeCut(), 5.0, 5.5, 5.9999, 6.0, 6.1) == [(3, 5)]


def test_the_last_millisecond_of_an_hour_belongs_to_it() -> None:
    due, _ = EventTimeCut(5 * H).step(np.array([6 * H - 1], np.int64), 0)
    assert due is None
    due, _ = EventTimeCut(5 * H).step(np.array([6 * H], np.int64), 0)
    assert due == Due(0, 5 * H)


def test_hours_without_rows_are_not_cut() -> None:
    assert _cuts(EventTimeCut(), 5.0, 9.0, 9.5, 11.0) == [(1, 5), (3, 9)]


def test_a_late_row_cuts_nothing_and_belongs_to_the_open_hour() -> None:
    assert _cuts(EventTimeCut(), 5.0, 6.0, 5.5, 4.0, 6.5, 7.0) == [(1, 5), (5, 6)]


def test_no_rows_close_no_hour() -> None:
    assert EventTimeCut(5 * H).step(_times(), 10**15) == (None, EventTimeCut(5 * H))


def test_splitting_the_rows_changes_no_cut() -> None:
    hours = (5.0, 5.5, 7.0, 6.0, 8.0, 8.0, 12.0)
    for split in range(len(hours) + 1):
        policy: CutPolicy = EventTimeCut()
        closed = []
        for part in (hours[:split], hours[split:]):
            times, start = _times(*part), 0
            while True:
                due, policy = policy.step(times[start:], 0)
                if due is None:
                    break
                start += due.row
                closed.append(due.hour_ms // H)
        assert closed == [5, 7, 8]


def test_after_a_cut_the_next_hour_is_open() -> None:
    assert _cuts(EventTimeCut().after_cut_of(5 * H), 5.5, 6.5, 7.0) == [(2, 6)]


def test_the_wall_clock_cuts_once_per_period_before_the_rows_at_hand() -> None:
    policy: CutPolicy = WallClockCut()
    closed = []
    for now_hours in (5.0, 5.99, 6.0, 6.5, 8.2, 8.9):
        due, policy = policy.step(_times(100.0), int(now_hours * H))
        if due is not None:
            closed.append((now_hours, due.row, due.hour_ms // H))
    assert closed == [(6.0, 0, 5), (8.2, 0, 7)]


def test_a_demo_can_cut_more_often_than_hourly() -> None:
    policy: CutPolicy = WallClockCut(every_seconds=10)
    closed = []
    for second in range(0, 41, 5):
        due, policy = policy.step(_times(), 5 * H + second * 1000)
        closed += [] if due is None else [(second, due.hour_ms // H)]
    assert closed == [(10, 5), (20, 5), (30, 5), (40, 5)]


def test_a_wall_clock_that_steps_back_cuts_nothing() -> None:
    policy: CutPolicy = WallClockCut(open_ms=6 * H)
    due, policy = policy.step(_times(), 5 * H)
    assert due is None and policy == WallClockCut(open_ms=6 * H)


def test_a_wall_clock_that_was_far_ahead_and_is_set_right_goes_on_cutting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    due, policy = WallClockCut(open_ms=5 * H).step(_times(), 900 * H)
    assert due is not None and due.hour_ms == 899 * H

    due, policy = policy.step(_times(), int(6.5 * H))
    assert (due, policy) == (None, WallClockCut(open_ms=6 * H))
    assert "went back by" in caplog.text
    due, policy = policy.step(_times(), 7 * H)
    assert due == Due(0, 6 * H)
    due, _ = policy.step(_times(), int(10.5 * H))
    assert due == Due(0, 9 * H, (7 * H, 8 * H))


def test_after_a_restart_within_the_hour_the_wall_clock_waits_for_its_end() -> None:
    policy: CutPolicy = WallClockCut().after_cut_of(3 * H)
    due, policy = policy.step(_times(), int(4.5 * H))
    assert due is None
    due, _ = policy.step(_times(), 5 * H)
    assert due == Due(0, 4 * H)


def test_a_cutter_that_was_away_for_three_hours_cuts_once_and_says_which_hours_were_missed() -> None:
    policy: CutPolicy = WallClockCut().after_cut_of(10 * H)
    due, policy = policy.step(_times(), int(14.2 * H))
    # At 14:12 hour 13 is over; 11 and 12 ended while nobody was there.
    assert due == Due(0, 13 * H, (11 * H, 12 * H))
    due, policy = policy.step(_times(), int(14.9 * H))
    assert due is None
    due, _ = policy.step(_times(), 15 * H)
    assert due == Due(0, 14 * H)


def test_a_cut_that_is_merely_late_misses_no_hour() -> None:
    due, _ = WallClockCut().after_cut_of(10 * H).step(_times(), int(12.3 * H))
    assert due == Due(0, 11 * H)


def test_a_cutter_that_was_stuck_says_the_same_as_one_that_was_away() -> None:
    due, _ = WallClockCut(open_ms=11 * H).step(_times(), int(14.2 * H))
    assert due == Due(0, 13 * H, (11 * H, 12 * H))


def test_cuts_every_ten_minutes_miss_whole_hours_only() -> None:
    policy = WallClockCut(every_seconds=600).after_cut_of(10 * H)
    due, _ = policy.step(_times(), int(10.8 * H))
    assert due is None
    due, _ = policy.step(_times(), int(13.5 * H))
    assert due == Due(0, 13 * H, (11 * H, 12 * H))


@pytest.mark.parametrize("policy", [EventTimeCut(5 * H), WallClockCut(open_ms=5 * H)])
def test_rows_of_an_hour_that_is_over_are_late(policy: CutPolicy) -> None:
    assert policy.late(_times(3.0, 4.99, 5.0, 7.0)) == 2


def test_before_the_first_hour_nothing_is_late() -> None:
    assert EventTimeCut().late(_times(3.0)) == 0


@pytest.mark.parametrize(
    ("policy", "hour"), [(EventTimeCut(5 * H), 5), (EventTimeCut(), 7), (WallClockCut(), 7)]
)
def test_a_cut_now_closes_the_open_hour(policy: CutPolicy, hour: int) -> None:
    assert policy.open_hour_ms(int(7.5 * H)) == hour * H
