"""Decoded changes of all sources → the new states of the Pins they touch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.pin_changes import fold
from features.pin_state import Records, empty_records
from features.store import RecordStore

from .change_rows import Decoded
from .decoding import DecodedBatch
from .misplaced import without_misplaced
from .sources import Ints, SourceBatch

_LAST_MS = 4_102_444_800_000 - 1


@dataclass(frozen=True)
class FoldedPins:
    """States after a batch, one per touched Pin, ids ascending. `tails` are titles as JSON text."""

    pin_ids: Ints
    records: Records
    tails: list[bytes]
    slots: list[npt.NDArray[np.intp]]
    """For each decoded batch: row of `records` that each of its rows went to."""
    repeated: list[npt.NDArray[np.bool_]]
    """For each decoded batch: which of its rows the states had already."""
    decoded: Decoded
    """The batches as they were folded: without rows that lie on another partition than their Pin's."""


def fold_pins(store: RecordStore, decoded: Decoded) -> FoldedPins:
    """Fold every source's rows into the stored states. Writes nothing.

    A row at or below its state's offset changes nothing, but its Pin is among the touched ones: after
    a crash between store and produce its row still has to be emitted.
    """
    ids = np.concatenate([one.changes.pin_id for _, one in decoded]) if decoded else np.empty(0, np.int64)
    pin_ids, inverse = np.unique(ids, return_inverse=True)
    records, tails, known = stored_states(store, pin_ids)
    placed = without_misplaced(decoded, pin_ids, known, inverse)
    if placed is not decoded:
        return fold_pins(store, placed)
    slots: list[npt.NDArray[np.intp]] = []
    repeated: list[npt.NDArray[np.bool_]] = []
    start = 0
    for batch, one in decoded:
        mine = inverse[start : start + len(one.rows)]
        start += len(one.rows)
        slots.append(mine)
        repeated.append(batch.offsets[one.rows] <= records[batch.source.field][mine])
        fold_batch(records, tails, mine, batch, one)
    return FoldedPins(pin_ids, records, tails, slots, repeated, decoded)


def fold_batch(
    records: Records, tails: list[bytes], slots: npt.NDArray[np.intp], batch: SourceBatch, one: DecodedBatch
) -> None:
    """Fold the rows of one batch into states, in place; row i goes to `records[slots[i]]`."""
    # A client may write any timestamp into a message; the state's has to stay a valid one.
    ingested = np.clip(batch.ingested_at_ms[one.rows], 0, _LAST_MS)
    fold(records, tails, slots, one.changes, batch.offsets[one.rows], ingested)
    records["partition"][slots] = batch.partitions[one.rows]


def stored_states(store: RecordStore, pin_ids: Ints) -> tuple[Records, list[bytes], Ints]:
    """States and titles, and the partition of each state, -1 for a Pin that has none."""
    if not len(pin_ids):
        return empty_records(pin_ids), [], np.empty(0, np.int64)
    records, found, tails = store.get_many(pin_ids)
    known = np.where(found, records["partition"], -1)
    if not found.all():
        records[~found] = empty_records(pin_ids[~found])
    return records, tails, known
