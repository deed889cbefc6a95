import random

import numpy as np
import pytest

from features.store import MemoryStore
from streams.state_cache import CachedStore

DTYPE = np.dtype([("id", "<i8"), ("value", "<i4")])


@pytest.mark.parametrize("capacity", [1, 5, 40])
def test_a_cached_store_answers_as_the_plain_one_through_a_thousand_random_steps(capacity: int) -> None:
    rng, plain = random.Random(capacity), MemoryStore(DTYPE)
    cached = CachedStore(MemoryStore(DTYPE), capacity)
    for step in range(1000):
        ids = np.array(rng.sample(range(30), rng.randint(0, 8)), np.int64)
        if rng.random() < 0.5:
            records = np.zeros(len(ids), DTYPE)
            records["id"], records["value"] = ids, step
            tails = [b"%d" % rng.randrange(100) for _ in ids]
            plain.put_many(ids, records, tails)
            cached.put_many(ids, records, tails)
        (expected, there, tails), (came, found, came_tails) = plain.get_many(ids), cached.get_many(ids)
        assert came.tolist() == expected.tolist()
        assert (found.tolist(), came_tails) == (there.tolist(), tails)


def test_a_record_seen_once_is_not_asked_for_again() -> None:
    below = MemoryStore(DTYPE)
    cached = CachedStore(below)
    ids, records = np.array([1]), np.array([(1, 7)], DTYPE)
    cached.put_many(ids, records, [b"t"])
    below.put_many(ids, np.array([(1, 8)], DTYPE), [b"u"])  # behind its back
    assert cached.get_many(ids)[0]["value"].tolist() == [7]
