"""Spend is booked to the micro, by day of the query's time."""

import pytest

from schemas.times import DAY_MS
from serving.ledger import DAYS_KEPT, NEAR_DAYS, Charge, SpendLedger

TODAY = 20_000


def test_charges_add_up_by_pin_and_by_advertiser() -> None:
    ledger = SpendLedger()
    ledger.charge(3, [Charge(10, 1, 250), Charge(11, 1, 100)], today=3)
    ledger.charge(3, [Charge(10, 1, 1)], today=3)
    assert ledger.spent(3, [10, 11, 12]) == [251, 100, 0]
    assert ledger.advertisers(3) == {1: 351}
    assert ledger.total_micros == 351


def test_a_day_begins_at_midnight_utc_of_the_query() -> None:
    ledger = SpendLedger()
    ledger.charge(ledger.day_of(5 * DAY_MS - 1), [Charge(10, 1, 7)], today=4)
    assert ledger.spent(ledger.day_of(5 * DAY_MS), [10]) == [0]
    assert ledger.spent(ledger.day_of(5 * DAY_MS - DAY_MS), [10]) == [7]


def test_the_longest_unused_day_is_forgotten_but_stays_in_the_total() -> None:
    ledger = SpendLedger()
    for day in range(DAYS_KEPT + 1):
        ledger.charge(day, [Charge(1, 1, 10)], today=TODAY)
    assert ledger.spent(0, [1]) == [0]
    assert ledger.spent(1, [1]) == [10]
    assert ledger.total_micros == 10 * (DAYS_KEPT + 1)


def test_spenders_lists_who_spent() -> None:
    ledger = SpendLedger()
    ledger.charge(2, [Charge(5, 1, 30), Charge(6, 2, 40)], today=2)
    pins, spent = ledger.spenders(2)
    assert dict(zip(pins.tolist(), spent.tolist(), strict=True)) == {5: 30, 6: 40}
    assert len(ledger.spenders(9)[0]) == 0


@pytest.mark.parametrize("near", [0, -1, 1, -NEAR_DAYS, NEAR_DAYS])
@pytest.mark.parametrize("first", [TODAY - 2_000, TODAY + 10, TODAY + 2_000])
def test_charges_on_any_number_of_other_days_leave_the_days_around_today_alone(near: int, first: int) -> None:
    ledger = SpendLedger()
    ledger.charge(TODAY + near, [Charge(1, 1, 10)], today=TODAY)
    for day in range(first, first + 3 * DAYS_KEPT):
        ledger.charge(day, [Charge(2, 1, 10)], today=TODAY)
    assert ledger.spent(TODAY + near, [1]) == [10]
    assert len(ledger.days()) == DAYS_KEPT


@pytest.mark.parametrize("start", [TODAY - 3_000, TODAY + 3_000])
@pytest.mark.parametrize("step", [1, -1])
def test_a_replay_keeps_the_days_that_it_is_selling_on(start: int, step: int) -> None:
    """It runs beside live traffic, before or after today, either way; some answers lag a day behind."""
    ledger = SpendLedger()
    for number in range(3 * DAYS_KEPT):
        day = start + step * number
        ledger.charge(TODAY, [Charge(9, 1, 1)], today=TODAY)
        ledger.charge(day, [Charge(1, 1, 10)], today=TODAY)
        ledger.charge(day - step, [Charge(1, 1, 5)], today=TODAY)
        assert ledger.spent(day, [1]) == [10]
        assert ledger.spent(day - step, [1]) == [15 if number else 5]
    assert ledger.spent(TODAY, [9]) == [3 * DAYS_KEPT]


def test_when_days_go_by_the_older_ones_are_forgotten() -> None:
    ledger = SpendLedger()
    for day in range(TODAY, TODAY + 3 * DAYS_KEPT):
        ledger.charge(day, [Charge(1, 1, 10)], today=day)
    assert ledger.days() == set(range(TODAY + 2 * DAYS_KEPT, TODAY + 3 * DAYS_KEPT))


def test_an_answer_without_winners_takes_no_days_place() -> None:
    ledger = SpendLedger()
    ledger.charge(TODAY, [], today=TODAY)
    assert ledger.days() == set()
