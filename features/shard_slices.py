"""Which shard of an index a Pin belongs to: a hash of its id, the same in every process and release."""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.errors import Refused

from .tier_slices import Ints, mixed_ids

MAX_SHARDS = 1_000
_SHARD = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})")


@dataclass(frozen=True)
class Shard:
    """One of `shards` equal parts of every release; `number` is 1 for the first. Written `1/3`."""

    number: int
    shards: int

    def __str__(self) -> str:
        return f"{self.number}/{self.shards}"

    def holds(self, pin_ids: Ints) -> npt.NDArray[np.bool_]:
        """Whether each Pin belongs to this shard, bool [N].

        By the upper half of the id's hash: a tier's slice is by its remainder, so every tier spreads over
        every shard.
        """
        upper = mixed_ids(pin_ids) >> np.uint64(32)
        held: npt.NDArray[np.bool_] = upper % np.uint64(self.shards) == np.uint64(self.number - 1)
        return held


def read_shard(text: str) -> Shard:
    """A shard as it is written on the command line. Raises Refused."""
    match = _SHARD.fullmatch(text.strip())
    number, shards = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= shards <= MAX_SHARDS:
        raise Refused(
            "bad_shard",
            f"a shard as number/shards, 1/3 for the first of three, at most {MAX_SHARDS}",
            repr(text[:40]),
            "Give each leaf a number of its own and all of them the same count.",
        )
    return Shard(number, shards)
