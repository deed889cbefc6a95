"""Events that do not lie on the partition of their Pin: turned down, one by one.

Offsets of two partitions have no common order, so such an event would pass for one that the state has had
long ago, or, with a higher offset, make its Pin deaf to all that comes on its own partition.
"""

from dataclasses import replace

import numpy as np

from schemas.errors import DeadLetterReason

from .change_rows import Decoded, only_rows
from .decoding import DecodedBatch
from .murmur2 import partitions_of
from .sources import DeadLetter, Ints, SourceBatch, dead_letter


def without_misplaced(decoded: Decoded, pin_ids: Ints, known: Ints, inverse: Ints) -> Decoded:
    """The batches as they are, or copies in which misplaced rows are letters.

    `known` is the partition of each of `pin_ids` by its state, -1 where it has none; `inverse` is the place
    in them of every row, batch by batch. Only rows that differ from it are looked at: a state was made by
    events of one partition. A source that does not say how many partitions it has is not looked at.
    """
    starts = np.cumsum([0, *(len(one.rows) for _, one in decoded)])
    kept: list[tuple[SourceBatch, DecodedBatch]] = []
    changed = False
    for (batch, one), start in zip(decoded, starts.tolist(), strict=False):
        slots = inverse[start : start + len(one.rows)]
        wrong = _wrong(batch, one, pin_ids, slots, known[slots])
        changed |= wrong is not None
        kept.append((batch, one if wrong is None else _without(batch, one, wrong)))
    return kept if changed else decoded


def _wrong(
    batch: SourceBatch, one: DecodedBatch, pin_ids: Ints, slots: Ints, known: Ints
) -> dict[int, int] | None:
    """Row of the decoded batch -> where it belongs."""
    lies = batch.partitions[one.rows]
    if batch.source.partitions is None or not (strange := np.flatnonzero(known != lies)).size:
        return None
    distinct, places = np.unique(slots[strange], return_inverse=True)
    belongs = partitions_of(pin_ids[distinct], batch.source.partitions)[places]
    wrong = np.flatnonzero(belongs != lies[strange])
    if not len(wrong):
        return None
    return dict(zip(strange[wrong].tolist(), belongs[wrong].tolist(), strict=True))


def _without(batch: SourceBatch, one: DecodedBatch, wrong: dict[int, int]) -> DecodedBatch:
    letters = [_letter(batch, int(one.rows[row]), belongs) for row, belongs in wrong.items()]
    right = np.ones(len(one.rows), np.bool_)
    right[list(wrong)] = False
    all_letters = sorted([*one.letters, *letters], key=lambda letter: letter.row)
    return replace(only_rows(one, right), letters=all_letters)


def _letter(batch: SourceBatch, row: int, belongs: int) -> DeadLetter:
    lies = int(batch.partitions[row])
    said = f"lies on partition {lies}, belongs on {belongs}: the producer has to hash keys with murmur2"
    return dead_letter(batch, row, DeadLetterReason.KEY_MISMATCH, said)
