import numpy as np

from features.tier_slices import buckets, in_tier, tier_codes
from schemas.tiers import Tier, Tiers


def test_a_bucket_never_changes() -> None:
    assert buckets(np.array([0, 1, 2, 92_331, 2**40])).tolist() == [0, 89, 30, 46, 68]


def test_ids_in_order_spread_over_all_buckets_evenly() -> None:
    for step in (1, 64, 1024):
        counts = np.bincount(buckets(np.arange(100_000) * step), minlength=100)
        assert counts.min() > 850
        assert counts.max() < 1150


def test_every_pin_is_in_exactly_one_of_two_tiers() -> None:
    pins = np.arange(10_000)
    fast, slow = Tier(name="fast", end_bucket=20), Tier(name="slow", first_bucket=20)
    assert (in_tier(pins, fast) ^ in_tier(pins, slow)).all()
    assert 0.17 < in_tier(pins, fast).mean() < 0.23


def test_a_tier_of_everything_holds_every_pin() -> None:
    assert in_tier(np.arange(5), Tier(name="all")).all()


def test_the_place_of_a_pins_tier_agrees_with_the_tier_that_holds_it() -> None:
    tiers = Tiers(
        tiers=[
            Tier(name="first", first_bucket=0, end_bucket=20),
            Tier(name="second", policy="batch", first_bucket=20, end_bucket=100),
        ]
    )
    pins = np.arange(2_000)
    codes = tier_codes(pins, tiers)

    for place, tier in enumerate(tiers.tiers):
        assert (codes == place).tolist() == in_tier(pins, tier).tolist()
