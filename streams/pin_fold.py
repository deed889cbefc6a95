"""Decoded changes of all sources → the new states of the Pins they touch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.pin_changes import fold
from features.pin_state import Records, empty_records
from features.store import RecordStore

from .decoding import DecodedBatch
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


def fold_pins(store: RecordStore, decoded: Sequence[tuple[SourceBatch, DecodedBatch]]) -> FoldedPins:
    """Fold every source's rows into the stored states. Writes nothing.

    A row at or below its state's offset changes nothing, but its Pin is among the touched ones: after
    a crash between store and produce its row still has to be emitted.
    """
    ids = np.concatenate([one.changes.pin_id for _, one in decoded]) if decoded else np.empty(0, np.int64)
    pin_ids, inverse = np.unique(ids, return_inverse=True)
    records, tails = _states(store, pin_ids)
    slots: list[npt.NDArray[np.intp]] = []
    repeated: list[npt.NDArray[np.bool_]] = []
    start = 0
    for batch, one in decoded:
        mine = inverse[start : start + len(one.rows)]
        start += len(one.rows)
        slots.append(mine)
        repeated.append(batch.offsets[one.rows] <= records[batch.source.field][mine])
        # A client may write any timestamp into a message; the state's has to stay a valid one.
        ingested = np.clip(batch.ingested_at_ms[one.rows], 0, _LAST_MS)
        fold(records, tails, mine, one.changes, batch.offsets[one.rows], ingested)
        records["partition"][mine] = batch.partitions[one.rows]
    return FoldedPins(pin_ids, records, tails, slots, repeated)


def _states(store: RecordStore, pin_ids: Ints) -> tuple[Records, list[bytes]]:
    if not len(pin_ids):
        return empty_records(pin_ids), []
    records, found, tails = store.get_many(pin_ids)
    if not found.all():
        records[~found] = empty_records(pin_ids[~found])
    return records, tails
