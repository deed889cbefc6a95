"""A Pin tower at work: which of the Pins it is given it can embed, and which it cannot.

Where a forward fails the batch is halved until the Pins that it fails on are found.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from features.pin_state import Records
from schemas.errors import Refused, RetryableError

from .sources import Ints

BROKEN_TOWER_PINS = 16
"""A tower that fails on this many Pins out of as many is broken; the Pins are not."""
_CANDIDATE_PATIENCE = 128
"""So many failed forwards a batch to find the Pins that a tower other than the serving one fails on.

Enough for about nine Pins out of 16,384; halving its way through a broken one would cost two forwards a
Pin, and the serving tower would wait for them.
"""
_TURNED_DOWN = (ValueError, ArithmeticError)


class Embedded(Protocol):
    """What a tower gives: vectors (N, D) and, per row, which inputs were not their default (N,)."""

    @property
    def vectors(self) -> npt.NDArray[np.float32]: ...  # noqa: D102

    @property
    def input_mask(self) -> Ints: ...  # noqa: D102


class PinEmbedder(Protocol):
    """A Pin tower of one version. `embed` raises ValueError or ArithmeticError for rows it cannot embed.

    And RetryableError when its device is out of memory, which says nothing about the rows.
    """

    @property
    def version(self) -> str: ...  # noqa: D102

    def embed(self, pins: Records, /) -> Embedded: ...  # noqa: D102


LiveTowers = Callable[[], Sequence[PinEmbedder]]
"""The towers to embed with now, the serving one first. Asked between batches, so it has to be quick.

Raises RetryableError where there is none: what is folded without one has no row, and none comes later."""


@dataclass(frozen=True)
class TowerOutput:
    """Vectors (N, D) and masks (N,) of one tower; rows where `failed` is set hold zeros."""

    vectors: npt.NDArray[np.float32]
    input_mask: Ints
    failed: npt.NDArray[np.bool_]
    not_finite: npt.NDArray[np.bool_]
    """Of the failed ones, those whose vector was NaN or infinite."""

    def only(self, kept: npt.NDArray[np.bool_]) -> "TowerOutput":
        """The rows that are flagged."""
        return TowerOutput(
            self.vectors[kept], self.input_mask[kept], self.failed[kept], self.not_finite[kept]
        )


def embed_as_placed(place: int, tower: PinEmbedder, records: Records) -> TowerOutput:
    """Embed records with the tower at this place of the live list; see `embed_rows` for the serving one.

    Another one raises nothing. Where it fails on many Pins, neighbours of theirs may be set aside as well.
    """
    if place == 0:
        return embed_rows(tower, records)
    failures = (*_TURNED_DOWN, RuntimeError, RetryableError)
    return _embed_or_halve(tower, records, _Patience(_CANDIDATE_PATIENCE, failures))


def embed_rows(tower: PinEmbedder, records: Records) -> TowerOutput:
    """Embed records, setting aside exactly the ones that the tower cannot embed.

    Raises Refused when it can embed none of `BROKEN_TOWER_PINS` or more, and what `embed` raises of a device
    without memory: no row is set aside for that.
    """
    output = _embed_or_halve(tower, records, _Patience())
    if len(records) >= BROKEN_TOWER_PINS and output.failed.all():
        raise Refused(
            "tower_broken",
            expected=f"tower {tower.version[:12]} to embed Pins",
            came=f"a failure on each of {len(records)} Pins",
            fix="Take this version off the live towers, or repair its checkpoint.",
        )
    return output


@dataclass
class _Patience:
    """What is taken for a failure, and how many failed forwards are looked into."""

    limit: float = math.inf
    failures: tuple[type[Exception], ...] = _TURNED_DOWN
    spent: int = 0


def _embed_or_halve(tower: PinEmbedder, records: Records, patience: _Patience) -> TowerOutput:
    count = len(records)
    try:
        output = tower.embed(records)
        if not np.isfinite(output.vectors).all():
            raise FloatingPointError("the tower gave a vector that is not finite")
    except patience.failures as error:
        patience.spent += 1
        if count <= 1 or patience.spent >= patience.limit:
            return TowerOutput(
                np.zeros((count, 0), np.float32),
                np.zeros(count, np.int64),
                np.ones(count, np.bool_),
                np.full(count, isinstance(error, FloatingPointError)),
            )
        middle = count // 2
        return _joined(
            _embed_or_halve(tower, records[:middle], patience),
            _embed_or_halve(tower, records[middle:], patience),
        )
    fine = np.zeros(count, np.bool_)
    return TowerOutput(output.vectors, output.input_mask, fine, fine)


def _joined(left: TowerOutput, right: TowerOutput) -> TowerOutput:
    """Both halves; a half in which all rows failed does not know the dimension and takes the other's."""
    dimension = max(left.vectors.shape[1], right.vectors.shape[1])
    vectors = [
        half.vectors
        if half.vectors.shape[1] == dimension
        else np.zeros((len(half.vectors), dimension), np.float32)
        for half in (left, right)
    ]
    return TowerOutput(
        np.concatenate(vectors),
        np.concatenate([left.input_mask, right.input_mask]),
        np.concatenate([left.failed, right.failed]),
        np.concatenate([left.not_finite, right.not_finite]),
    )
