"""Shards: every Pin in exactly one, evenly, whatever its tier."""

import numpy as np
import pytest

from features.shard_slices import Shard, read_shard
from features.tier_slices import buckets
from schemas.errors import Refused


def test_every_pin_is_in_exactly_one_shard_and_each_shard_has_its_part() -> None:
    pins = np.arange(30_000, dtype=np.int64) * 64
    held = np.array([Shard(n, 3).holds(pins) for n in (1, 2, 3)])

    assert (held.sum(axis=0) == 1).all()
    assert held.sum(axis=1) == pytest.approx(10_000, rel=0.05)


def test_a_tier_spreads_over_every_shard() -> None:
    pins = np.arange(100_000, dtype=np.int64)
    of_a_tier = pins[buckets(pins) < 10]

    assert Shard(1, 10).holds(of_a_tier).mean() == pytest.approx(0.1, abs=0.01)


def test_the_shard_of_a_pin_never_changes() -> None:
    held = [n for n in range(1, 6) if Shard(n, 5).holds(np.array([4711]))[0]]

    assert held == [5]


def test_a_shard_is_written_as_one_of_so_many() -> None:
    assert read_shard("2/3") == Shard(2, 3)
    assert str(Shard(2, 3)) == "2/3"


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "1/3/5", "", "1/1001", "1/a"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="1/3 for the first of three"):
        read_shard(text)
