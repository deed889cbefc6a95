"""Some rows of decoded batches."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from features.pin_changes import Changes, Column

from .decoding import DecodedBatch
from .sources import SourceBatch

Decoded = Sequence[tuple[SourceBatch, DecodedBatch]]
"""Batches and what they were decoded to."""


def only_rows(one: DecodedBatch, kept: npt.NDArray[np.bool_]) -> DecodedBatch:
    """The rows that are flagged; letters stay as they are."""
    return replace(one, changes=_only(one.changes, kept), rows=one.rows[kept])


def _only(changes: Changes, kept: npt.NDArray[np.bool_]) -> Changes:
    moved = np.cumsum(kept) - 1
    columns = {}
    for name, column in changes.columns.items():
        mine = kept[column.rows]
        columns[name] = Column(moved[column.rows[mine]], column.values[mine])
    return replace(
        changes,
        pin_id=changes.pin_id[kept],
        occurred_at_ms=changes.occurred_at_ms[kept],
        columns=columns,
        titles={int(moved[row]): title for row, title in changes.titles.items() if kept[row]},
    )
