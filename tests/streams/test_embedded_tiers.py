import numpy as np

from features.tier_slices import buckets
from schemas.tiers import Tier, Tiers, single_tier
from streams.embedded_tiers import EmbeddedTiers

PINS = np.arange(1_000)
TIERS = Tiers(
    tiers=[
        Tier(name="hot", first_bucket=0, end_bucket=20),
        Tier(name="slow", policy="batch", first_bucket=20, end_bucket=70),
        Tier(name="warm", first_bucket=70, end_bucket=100),
    ]
)


def test_one_realtime_tier_has_every_pin_and_nobody_looks_at_ids() -> None:
    tiers = EmbeddedTiers(single_tier("all"))
    assert tiers.chosen(PINS) is None
    assert tiers.counts(PINS) == {"all": 1_000}


def test_pins_of_batch_tiers_are_not_chosen() -> None:
    chosen = EmbeddedTiers(TIERS).chosen(PINS)
    assert chosen is not None
    found = buckets(PINS)
    assert chosen.tolist() == [pin for pin in range(1_000) if not 20 <= found[pin] < 70]


def test_each_realtime_tier_counts_its_own_pins() -> None:
    tiers = EmbeddedTiers(TIERS)
    chosen = tiers.chosen(PINS)
    assert chosen is not None
    counts = tiers.counts(PINS[chosen])
    assert list(counts) == ["hot", "warm"]
    assert sum(counts.values()) == len(chosen)
    assert counts["hot"] == int((buckets(PINS) < 20).sum())


def test_where_all_tiers_are_batch_nothing_is_chosen() -> None:
    tiers = EmbeddedTiers(Tiers(tiers=[Tier(name="slow", policy="batch")]))
    chosen = tiers.chosen(PINS)
    assert chosen is not None
    assert len(chosen) == 0
    assert tiers.counts(PINS[:0]) == {}
