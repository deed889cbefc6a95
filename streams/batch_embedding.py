"""Pin states of one partition → rows of a snapshot, with one tower."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from features.pin_state import STATUS_CODES
from index.snapshots import ATTRIBUTES, SnapshotRows

from .batch_states import Interrupted, PartitionStates
from .sources import Ints
from .tower_output import PinEmbedder, embed_rows

FAILED_NOT_FINITE = "the tower's vector is not finite"
FAILED = "the tower cannot embed the Pin"


@dataclass(frozen=True)
class EmbeddedStates:
    """Rows of one tower version, ascending by Pin, and the Pins that have none, with why."""

    rows: SnapshotRows
    failed: dict[int, str] = field(default_factory=dict)


def embed_states(
    tower: PinEmbedder, dimension: int, states: PartitionStates, batch_pins: int, stopped: Callable[[], bool]
) -> EmbeddedStates:
    """Embed every state, `batch_pins` at a time. Rows hold vectors fp16 [N, dimension].

    Raises Refused (`tower_broken`) when the tower fails on all of a batch, Interrupted when stopped.
    """
    count = len(states.records)
    vectors, masks = np.zeros((count, dimension), "<f2"), np.zeros(count, np.int64)
    kept = np.ones(count, np.bool_)
    failed: dict[int, str] = {}
    for start in range(0, count, batch_pins):
        if stopped():
            raise Interrupted
        part = slice(start, min(start + batch_pins, count))
        output = embed_rows(tower, states.records[part])
        good = np.flatnonzero(~output.failed)
        if len(good):  # with none, the output does not know its dimension
            vectors[start + good], masks[start + good] = output.vectors[good], output.input_mask[good]
        for place in np.flatnonzero(output.failed).tolist():
            pin = int(states.records["pin_id"][start + place])
            failed[pin] = FAILED_NOT_FINITE if output.not_finite[place] else FAILED
            kept[start + place] = False
    rows = SnapshotRows(
        attributes=_attributes(states, masks),
        vectors=vectors,
        versions=[tower.version],
        version_code=np.zeros(count, np.uint8),
        titles=pa.array([orjson.loads(tail) if tail else "" for tail in states.tails], pa.string()),
    )
    return EmbeddedStates(rows if kept.all() else rows.take(np.flatnonzero(kept)), failed)


def _attributes(states: PartitionStates, masks: Ints) -> npt.NDArray[np.void]:
    """What `embedded_rows` puts on pin.embedded.v1, in a snapshot's form."""
    attributes: npt.NDArray[np.void] = np.zeros(len(states.records), ATTRIBUTES)
    for name in ATTRIBUTES.names or ():
        attributes[name] = masks if name == "input_mask" else states.records[name]
    # A Pin whose status nobody has told is active, as `PinEmbedded` has it.
    attributes["status"][attributes["status"] == 0] = STATUS_CODES["active"]
    return attributes
