"""Eligibility: the first broken rule, stretches of time between boundaries, and budgets that run out."""

import numpy as np
import pytest

from index.vector_index import eligible_rows, pack
from serving.eligibility import MASKS_KEPT, Eligibility, Rule, rule_codes
from serving.ledger import Charge, SpendLedger

from .fakes import HOUR_MS, NOON_MS, Records, pins

RESERVE = 1_000
YOUNGEST, SECOND = 1, 2


def one(**columns: int) -> Records:
    return pins(1, **columns)


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({}, Rule.ELIGIBLE),
        ({"status": 2}, Rule.STATUS),
        ({"status": 3}, Rule.STATUS),
        ({"status": 0}, Rule.STATUS),
        ({"starts_at_ms": NOON_MS + 1}, Rule.NOT_STARTED),
        ({"starts_at_ms": NOON_MS}, Rule.ELIGIBLE),
        ({"ends_at_ms": NOON_MS}, Rule.ENDED),
        ({"ends_at_ms": NOON_MS + 1}, Rule.ELIGIBLE),
        ({"target_ages": 0b01}, Rule.TARGETING_AGE),
        ({"target_ages": 0b10}, Rule.ELIGIBLE),
        ({"bid_micros": 0}, Rule.NO_BID),
        ({"bid_micros": RESERVE - 1}, Rule.BELOW_RESERVE),
        ({"daily_budget_micros": 9_999}, Rule.BUDGET_EXHAUSTED),
        ({"daily_budget_micros": 10_000}, Rule.ELIGIBLE),
        ({"status": 2, "bid_micros": 0}, Rule.STATUS),
    ],
)
def test_the_first_broken_rule_is_the_reason(columns: dict[str, int], rule: Rule) -> None:
    assert rule_codes(one(**columns), SECOND, NOON_MS, RESERVE).tolist() == [rule]


def test_an_asker_of_unknown_age_sees_untargeted_ads_only() -> None:
    rows = pins(2, target_ages=[0, 0b111111])
    assert rule_codes(rows, 0, NOON_MS, RESERVE).tolist() == [Rule.ELIGIBLE, Rule.TARGETING_AGE]


def test_the_mask_agrees_with_the_rules_at_every_moment() -> None:
    hours = np.arange(40)
    rows = pins(40, starts_at_ms=NOON_MS + hours % 7 * HOUR_MS, ends_at_ms=NOON_MS + hours % 11 * HOUR_MS)
    eligibility = Eligibility(rows, RESERVE, SpendLedger())
    for at_ms in [NOON_MS + hour * HOUR_MS + shift for hour in range(-1, 12) for shift in (-1, 0, 1)]:
        mask = eligibility.mask(YOUNGEST, at_ms)
        codes = rule_codes(rows, YOUNGEST, at_ms, RESERVE)
        assert mask.codes.tolist() == codes.tolist()
        assert mask.bitmap.tolist() == pack(codes == 0).tolist()
        assert sum(mask.dropped.values()) == np.count_nonzero(codes)


def test_a_mask_is_made_once_for_a_stretch_of_time() -> None:
    eligibility = Eligibility(pins(3, starts_at_ms=NOON_MS + HOUR_MS), RESERVE, SpendLedger())
    assert eligibility.mask(1, NOON_MS) is eligibility.mask(1, NOON_MS + HOUR_MS - 1)
    assert eligibility.mask(1, NOON_MS) is not eligibility.mask(1, NOON_MS + HOUR_MS)
    assert eligibility.mask(1, NOON_MS) is not eligibility.mask(2, NOON_MS)


def test_old_masks_are_let_go() -> None:
    eligibility = Eligibility(pins(3), RESERVE, SpendLedger())
    first = eligibility.mask(0, NOON_MS)
    for day in range(1, MASKS_KEPT + 1):
        eligibility.mask(0, NOON_MS + day * 24 * HOUR_MS)
    assert eligibility.mask(0, NOON_MS) is not first


def test_an_exhausted_budget_leaves_retrieval_for_that_day_only() -> None:
    ledger = SpendLedger()
    eligibility = Eligibility(pins(20), RESERVE, ledger)
    today, tomorrow = eligibility.mask(1, NOON_MS), eligibility.mask(1, NOON_MS + 24 * HOUR_MS)
    eligibility.exhaust(ledger.day_of(NOON_MS), np.array([3, 11]))
    assert today.codes[[3, 11]].tolist() == [Rule.BUDGET_EXHAUSTED] * 2
    assert eligible_rows(today.bitmap) == 18
    assert today.dropped == {"budget_exhausted": 2}
    assert eligible_rows(tomorrow.bitmap) == 20
    eligibility.exhaust(ledger.day_of(NOON_MS), np.array([3]))
    assert today.dropped == {"budget_exhausted": 2}


def test_a_new_release_starts_from_what_the_ledger_says() -> None:
    ledger = SpendLedger()
    # Pin 101 has 10,000,000 a day and bids 10,000: with 9,990,001 spent it cannot pay once more.
    today = ledger.day_of(NOON_MS)
    ledger.charge(today, [Charge(101, 2, 9_990_001), Charge(102, 3, 9_990_000)], today=today)
    mask = Eligibility(pins(4), RESERVE, ledger).mask(1, NOON_MS)
    assert mask.codes.tolist() == [0, Rule.BUDGET_EXHAUSTED, 0, 0]


def test_the_rule_of_one_row_is_that_of_the_mask_and_makes_none() -> None:
    ledger = SpendLedger()
    today = ledger.day_of(NOON_MS)
    ledger.charge(today, [Charge(101, 2, 9_990_001), Charge(102, 3, 9_990_000)], today=today)
    eligibility = Eligibility(pins(5, status=[1, 1, 1, 2, 1]), RESERVE, ledger)
    alone = [eligibility.rule(row, 1, NOON_MS) for row in range(5)]
    assert not eligibility._masks
    assert alone == eligibility.mask(1, NOON_MS).codes.tolist()
    assert alone == [Rule.ELIGIBLE, Rule.BUDGET_EXHAUSTED, Rule.ELIGIBLE, Rule.STATUS, Rule.ELIGIBLE]
