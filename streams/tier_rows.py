"""Rows of pin.embedded.v1 as one tier's cutter looks at them."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from features.tier_slices import in_tier
from index.embedding_table import EmbeddedBatch
from index.row_files import SnapshotRows
from schemas.tiers import Tier

from .embedded_batches import DecodedRows
from .sources import Ints


def of_tier(decoded: DecodedRows, tier: Tier) -> DecodedRows:
    """Without the rows of other tiers' Pins; letters stay."""
    ours = in_tier(decoded.batch.attributes["pin_id"], tier)
    if ours.all():
        return decoded
    places = np.flatnonzero(ours)
    return replace(decoded, batch=_picked(decoded.batch, places), places=decoded.places[places])


def rows_of_tier(rows: SnapshotRows, tier: Tier) -> SnapshotRows:
    """Without other tiers' Pins: a snapshot from before tiers were declared, or changed, has some."""
    ours = in_tier(rows.attributes["pin_id"], tier)
    return rows if ours.all() else rows.take(np.flatnonzero(ours))


def event_times(attributes: npt.NDArray[np.void]) -> Ints:
    """When each row's event happened, at the latest when the broker had it (0: not known).

    One event of the year 2033 would otherwise close the hours up to then, and no other hour would be cut.
    """
    occurred_ms, ingested_ms = attributes["occurred_at_ms"], attributes["ingested_at_ms"]
    known = ingested_ms > 0
    return np.where(known, np.minimum(occurred_ms, ingested_ms), occurred_ms).astype(np.int64)


def _picked(batch: EmbeddedBatch, places: npt.NDArray[np.intp]) -> EmbeddedBatch:
    """The rows at these places."""
    return replace(
        batch,
        attributes=batch.attributes[places],
        vectors=[batch.vectors[place] for place in places.tolist()],
        titles=[batch.titles[place] for place in places.tolist()],
        version_code=batch.version_code[places],
    )
