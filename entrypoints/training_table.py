"""The training table of served ads, out of Kafka and the snapshots of the data directory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.attributed_rows import SNAPSHOT_COLUMNS, Actions, actions_of, table_of, write_table
from features.definitions import registry
from index.snapshots import SnapshotRows, list_snapshots, read_snapshot
from schemas.errors import Refused
from schemas.events import EngagementObserved
from schemas.impressions import ImpressionAttributed
from schemas.topics import ENGAGEMENT_OBSERVED, IMPRESSION_ATTRIBUTED
from streams.topic_reader import TopicReader
from streams.topic_rows import RowsReading, every_row, newest_rows

_FIELDS = {
    "pin_price_micros": "price_micros",
    "pin_daily_budget_micros": "daily_budget_micros",
    "pin_target_ages": "target_ages",
    "pin_input_mask": "input_mask",
    "pin_updated_at_ms": "occurred_at_ms",
}
"""Column → field of a snapshot's attributes."""


class SnapshotPins:
    """Pin attributes by snapshot; those of a snapshot that is gone or damaged are not known."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._there = set(list_snapshots(root))
        self._read: tuple[str, SnapshotRows | None] = ("", None)
        self.missing: set[str] = set()

    def __call__(self, snapshot_id: str, pin_ids: Sequence[int]) -> Mapping[str, list[int | None]]:
        """See `datasets.attributed_rows.PinAttributes`."""
        rows = self._rows(snapshot_id)
        if rows is None or not len(rows.attributes):
            return {name: [None] * len(pin_ids) for name in SNAPSHOT_COLUMNS}
        order = np.argsort(rows.attributes["pin_id"], kind="stable")
        sorted_ids = rows.attributes["pin_id"][order]
        wanted = np.array(pin_ids, np.int64)
        places = np.minimum(np.searchsorted(sorted_ids, wanted), len(sorted_ids) - 1)
        found = (sorted_ids[places] == wanted).tolist()
        chosen = rows.attributes[order[places]]
        return {
            name: [
                value if there else None for value, there in zip(chosen[field].tolist(), found, strict=True)
            ]
            for name, field in _FIELDS.items()
        }

    def _rows(self, snapshot_id: str) -> SnapshotRows | None:
        """One snapshot is held at a time: rows come about in the order in which they were served."""
        if self._read[0] != snapshot_id:
            self._read = (snapshot_id, self._load(snapshot_id))
        return self._read[1]

    def _load(self, snapshot_id: str) -> SnapshotRows | None:
        # The id comes from a topic: it becomes a path only when it is one of those that are there.
        if snapshot_id in self._there:
            try:
                return read_snapshot(self._root, snapshot_id)[1]
            except Refused:
                pass
        self.missing.add(snapshot_id)
        return None


def collect(
    reader: TopicReader, snapshots: Path, out: Path, notice: Callable[[RowsReading], None]
) -> dict[str, object]:
    """Write the table; returns what it holds."""
    reading = RowsReading()
    actions = _actions(reader, notice, reading)
    pins = SnapshotPins(snapshots)
    converted = 0

    def tables() -> Iterator[Any]:
        nonlocal converted
        for rows in newest_rows(reader, IMPRESSION_ATTRIBUTED, notice, reading):
            shown = [one for one in rows if isinstance(one, ImpressionAttributed)]
            converted += sum(one.converted for one in shown)
            if shown:
                yield table_of(shown, actions, pins)

    count = write_table(out, tables(), registry())
    return {
        "file": str(out),
        "rows": count,
        "converted": converted,
        "actions": len(actions.users),
        "unreadable": reading.unreadable,
        "snapshots_missing": len(pins.missing),
    }


def _actions(reader: TopicReader, notice: Callable[[RowsReading], None], reading: RowsReading) -> Actions:
    events = every_row(reader, ENGAGEMENT_OBSERVED, notice, reading)
    return actions_of(one for one in events if isinstance(one, EngagementObserved))
