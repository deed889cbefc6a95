"""Spend is booked to the micro, by day of the query's time."""

from serving.ledger import DAY_MS, DAYS_KEPT, Charge, SpendLedger


def test_charges_add_up_by_pin_and_by_advertiser() -> None:
    ledger = SpendLedger()
    ledger.charge(3, [Charge(10, 1, 250), Charge(11, 1, 100)])
    ledger.charge(3, [Charge(10, 1, 1)])
    assert ledger.spent(3, [10, 11, 12]) == [251, 100, 0]
    assert ledger.advertisers(3) == {1: 351}
    assert ledger.total_micros == 351


def test_a_day_begins_at_midnight_utc_of_the_query() -> None:
    ledger = SpendLedger()
    ledger.charge(ledger.day_of(5 * DAY_MS - 1), [Charge(10, 1, 7)])
    assert ledger.spent(ledger.day_of(5 * DAY_MS), [10]) == [0]
    assert ledger.spent(ledger.day_of(5 * DAY_MS - DAY_MS), [10]) == [7]


def test_the_longest_unused_day_is_forgotten_but_stays_in_the_total() -> None:
    ledger = SpendLedger()
    for day in range(DAYS_KEPT + 1):
        ledger.charge(day, [Charge(1, 1, 10)])
    assert ledger.spent(0, [1]) == [0]
    assert ledger.spent(1, [1]) == [10]
    assert ledger.total_micros == 10 * (DAYS_KEPT + 1)


def test_spenders_lists_who_spent() -> None:
    ledger = SpendLedger()
    ledger.charge(2, [Charge(5, 1, 30), Charge(6, 2, 40)])
    pins, spent = ledger.spenders(2)
    assert dict(zip(pins.tolist(), spent.tolist(), strict=True)) == {5: 30, 6: 40}
    assert len(ledger.spenders(9)[0]) == 0
