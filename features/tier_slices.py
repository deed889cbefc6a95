"""Which tier a Pin belongs to: a hash of its id, the same in every process and for ever."""

import numpy as np
import numpy.typing as npt

from schemas.tiers import BUCKETS, Tier, Tiers

Ints = npt.NDArray[np.int64]


def mixed_ids(pin_ids: Ints) -> npt.NDArray[np.uint64]:
    """A hash of each Pin's id, uint64 [N].

    The mixing function of splitmix64 (Steele, Lea and Flood 2014): ids that were dealt out in order, or
    in steps of a power of two, spread evenly all the same.
    """
    mixed = np.asarray(pin_ids, np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def buckets(pin_ids: Ints) -> Ints:
    """Bucket of each Pin, int64 [N] in [0, 100): its hash, modulo 100."""
    return (mixed_ids(pin_ids) % np.uint64(BUCKETS)).astype(np.int64)


def tier_codes(pin_ids: Ints, tiers: Tiers) -> Ints:
    """Place of each Pin's tier in `tiers.tiers`, int64 [N]."""
    owner_of_bucket = np.zeros(BUCKETS, np.int64)
    for place, tier in enumerate(tiers.tiers):
        owner_of_bucket[tier.first_bucket : tier.end_bucket] = place
    return owner_of_bucket[buckets(pin_ids)]


def in_tier(pin_ids: Ints, tier: Tier) -> npt.NDArray[np.bool_]:
    """Whether each Pin belongs to the tier, bool [N]."""
    if tier.first_bucket == 0 and tier.end_bucket == BUCKETS:
        return np.ones(len(pin_ids), np.bool_)
    found = buckets(pin_ids)
    inside: npt.NDArray[np.bool_] = (found >= tier.first_bucket) & (found < tier.end_bucket)
    return inside
