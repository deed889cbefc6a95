"""The auction: prices by arithmetic, then the properties that must hold for any auction."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import Refused
from serving.auction import (
    EXACT_INT64_BID_MICROS,
    AuctionPolicy,
    AuctionResult,
    Candidates,
    hold_auction,
    pctr_parts_per_billion,
)

POLICY = AuctionPolicy(reserve_micros=100, max_per_advertiser=2)
HALF, TENTH = 500_000_000, 100_000_000


def ads(*rows: tuple[int, int, int, int]) -> Candidates:
    """Eligible candidates with ample budgets from (pin, advertiser, bid, pctr in parts per billion)."""
    columns = np.array(rows, np.int64).reshape(-1, 4)
    return Candidates(
        pin_id=columns[:, 0],
        advertiser_id=columns[:, 1],
        bid_micros=columns[:, 2],
        pctr_ppb=columns[:, 3],
        remaining_micros=np.full(len(columns), 2**60),
        eligible=np.ones(len(columns), np.bool_),
    )


def winners(candidates: Candidates, result: AuctionResult) -> list[tuple[int, int]]:
    """(Pin, price) by position."""
    return [(int(candidates.pin_id[win.row]), win.price_micros) for win in result.wins]


def test_a_winner_pays_what_keeps_it_above_the_next() -> None:
    # Utilities 500, 300 and 80: the first pays ceil(300 / 0.5), the second ceil(80 / 0.1).
    candidates = ads((1, 1, 1_000, HALF), (2, 2, 3_000, TENTH), (3, 3, 800, TENTH))
    assert winners(candidates, hold_auction(candidates, 2, POLICY)) == [(1, 600), (2, 800)]


def test_the_last_winner_pays_the_reserve_when_nobody_is_left() -> None:
    candidates = ads((1, 1, 1_000, HALF))
    assert winners(candidates, hold_auction(candidates, 5, POLICY)) == [(1, 100)]


def test_a_price_is_rounded_up_to_whole_micros() -> None:
    # 301 x 0.1 / 0.3 = 100.33…
    candidates = ads((1, 1, 1_000, 300_000_000), (2, 2, 301, TENTH))
    assert winners(candidates, hold_auction(candidates, 1, POLICY)) == [(1, 101)]


def test_equal_utility_goes_to_the_lower_pin_which_need_only_meet_the_other() -> None:
    candidates = ads((7, 1, 1_000, HALF), (3, 2, 1_000, HALF))
    assert winners(candidates, hold_auction(candidates, 1, POLICY)) == [(3, 1_000)]


def test_a_higher_pin_must_beat_a_lower_one_by_a_micro() -> None:
    candidates = ads((7, 1, 1_200, HALF), (3, 2, 1_000, HALF))
    assert winners(candidates, hold_auction(candidates, 1, POLICY)) == [(7, 1_001)]


def test_an_advertiser_wins_at_most_its_cap_and_its_third_ad_does_not_set_a_price_for_others() -> None:
    candidates = ads((1, 9, 4_000, HALF), (2, 9, 3_000, HALF), (3, 9, 2_000, HALF), (4, 5, 1_000, HALF))
    result = hold_auction(candidates, 3, POLICY)
    # Pin 2's place would fall to Pin 3 of the same advertiser, which is not yet at its cap there.
    assert winners(candidates, result) == [(1, 3_000), (2, 2_000), (4, 100)]
    assert result.fates == ["won", "won", "advertiser_cap", "won"]
    assert result.dropped() == {"advertiser_cap": 1}


def test_who_may_not_bid_is_named_by_reason() -> None:
    candidates = replace(
        ads((1, 1, 500, HALF), (2, 2, 0, HALF), (3, 3, 99, HALF), (4, 4, 500, HALF), (5, 5, 500, HALF)),
        eligible=np.array([False, True, True, True, True]),
        remaining_micros=np.array([9_999, 9_999, 9_999, 499, 500]),
    )
    result = hold_auction(candidates, 5, POLICY)
    assert result.fates == ["ineligible", "no_bid", "below_reserve", "budget_exhausted", "won"]


def test_an_empty_auction_has_no_winner() -> None:
    result = hold_auction(ads(), 3, POLICY)
    assert (result.wins, result.fates) == ((), [])


def test_bids_beyond_64_bit_products_are_ranked_exactly() -> None:
    # The products differ by one part in 10^25, far below what floating point would see.
    bid = 2**53 - 1
    candidates = ads((1, 1, bid - 1, 10**9), (2, 2, bid, 10**9))
    assert winners(candidates, hold_auction(candidates, 1, POLICY)) == [(2, bid)]


def test_the_64_bit_bound_is_safe() -> None:
    assert EXACT_INT64_BID_MICROS * 10**9 < 2**63


def test_probabilities_become_parts_per_billion_and_never_nothing() -> None:
    parts = pctr_parts_per_billion(np.array([0.0, 1e-12, 0.25, 1.0, np.nan]))
    assert parts.tolist() == [1, 1, 250_000_000, 1_000_000_000, 1]


def test_a_policy_without_a_reserve_is_refused() -> None:
    with pytest.raises(Refused, match="auction_policy"):
        AuctionPolicy(reserve_micros=0)


# Small ranges, so that ties, caps and empty budgets are common; a few bids beyond 64-bit products.
BIDS = st.one_of(st.integers(0, 400), st.sampled_from([2**33, 2**40, 2**53 - 1]))
ROWS = st.lists(
    st.tuples(st.integers(1, 4), BIDS, st.integers(1, 9), st.integers(0, 800), st.booleans()),
    max_size=12,
)
SLOTS = st.integers(1, 6)
THOUSAND = settings(max_examples=1_000, deadline=None, derandomize=True)
AUCTIONS = settings(max_examples=250, deadline=None, derandomize=True)

Row = tuple[int, int, int, int, bool]


def from_rows(rows: list[Row]) -> Candidates:
    """Pins 1, 2, …, with pctr in tenths and every second one eligible by its flag."""
    count = len(rows)
    return Candidates(
        pin_id=np.arange(1, count + 1),
        advertiser_id=np.array([row[0] for row in rows], np.int64),
        bid_micros=np.array([row[1] for row in rows], np.int64),
        pctr_ppb=np.array([row[2] * TENTH for row in rows], np.int64),
        remaining_micros=np.array([row[3] if row[1] < 2**33 else 2**60 for row in rows], np.int64),
        eligible=np.array([row[4] for row in rows], np.bool_),
    )


def with_bid(candidates: Candidates, row: int, bid: int) -> Candidates:
    bids = candidates.bid_micros.copy()
    bids[row] = bid
    return replace(candidates, bid_micros=bids)


def place_of(candidates: Candidates, result: AuctionResult, pin: int) -> int | None:
    won = [int(candidates.pin_id[win.row]) for win in result.wins]
    return won.index(pin) if pin in won else None


@THOUSAND
@given(ROWS, SLOTS)
def test_prices_lie_between_reserve_and_bid_and_only_the_eligible_win(rows: list[Row], slots: int) -> None:
    candidates = from_rows(rows)
    result = hold_auction(candidates, slots, POLICY)
    for win in result.wins:
        bid = int(candidates.bid_micros[win.row])
        assert POLICY.reserve_micros <= win.price_micros <= bid
        assert candidates.eligible[win.row]
        assert candidates.remaining_micros[win.row] >= bid
    advertisers = [int(candidates.advertiser_id[win.row]) for win in result.wins]
    assert all(advertisers.count(one) <= POLICY.max_per_advertiser for one in advertisers)
    assert len(result.wins) <= slots
    assert result.fates.count("won") == len(result.wins)


@AUCTIONS
@given(ROWS, SLOTS, st.randoms(use_true_random=False))
def test_the_order_of_candidates_changes_nothing(rows: list[Row], slots: int, random: object) -> None:
    candidates = from_rows(rows)
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]  # hypothesis types it as object's Random
    shuffled = Candidates(
        *(
            getattr(candidates, name)[order]
            for name in ("pin_id", "advertiser_id", "bid_micros", "pctr_ppb", "remaining_micros", "eligible")
        )
    )
    one, other = hold_auction(candidates, slots, POLICY), hold_auction(shuffled, slots, POLICY)
    assert winners(candidates, one) == winners(shuffled, other)
    assert sorted(one.fates) == sorted(other.fates)


@AUCTIONS
@given(ROWS, SLOTS)
def test_a_price_is_the_smallest_bid_that_keeps_the_place(rows: list[Row], slots: int) -> None:
    candidates = from_rows(rows)
    result = hold_auction(candidates, slots, POLICY)
    for place, win in enumerate(result.wins):
        pin = int(candidates.pin_id[win.row])
        at_price = with_bid(candidates, win.row, win.price_micros)
        assert place_of(at_price, hold_auction(at_price, slots, POLICY), pin) == place
        if win.price_micros > POLICY.reserve_micros:
            below = with_bid(candidates, win.row, win.price_micros - 1)
            assert place_of(below, hold_auction(below, slots, POLICY), pin) != place


@AUCTIONS
@given(ROWS, SLOTS, st.integers(0, 11), st.integers(1, 300))
def test_a_higher_bid_never_loses_a_place_and_never_lowers_utility(
    rows: list[Row], slots: int, row: int, more: int
) -> None:
    candidates = from_rows(rows)
    if row >= len(rows):
        return
    candidates = replace(candidates, remaining_micros=np.full(len(rows), 2**60))
    raised = with_bid(candidates, row, int(candidates.bid_micros[row]) + more)
    before, after = hold_auction(candidates, slots, POLICY), hold_auction(raised, slots, POLICY)
    assert int(after.utilities[row]) > int(before.utilities[row])
    pin = int(candidates.pin_id[row])
    was, now = place_of(candidates, before, pin), place_of(raised, after, pin)
    assert was is None or (now is not None and now <= was)


@AUCTIONS
@given(ROWS, st.integers(0, 11), st.integers(1, 300))
def test_a_loser_that_bids_more_and_still_loses_never_lowers_the_winners_price(
    rows: list[Row], row: int, more: int
) -> None:
    candidates = from_rows(rows)
    if row >= len(rows):
        return
    candidates = replace(candidates, remaining_micros=np.full(len(rows), 2**60))
    raised = with_bid(candidates, row, int(candidates.bid_micros[row]) + more)
    before, after = hold_auction(candidates, 1, POLICY), hold_auction(raised, 1, POLICY)
    if before.wins and after.wins and before.wins[0].row == after.wins[0].row != row:
        assert after.wins[0].price_micros >= before.wins[0].price_micros


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None)
@given(ROWS, SLOTS)
def test_many_more_auctions_price_exactly(rows: list[Row], slots: int) -> None:
    candidates = from_rows(rows)
    result = hold_auction(candidates, slots, POLICY)
    for place, win in enumerate(result.wins):
        at_price = with_bid(candidates, win.row, win.price_micros)
        pin = int(candidates.pin_id[win.row])
        assert place_of(at_price, hold_auction(at_price, slots, POLICY), pin) == place
