"""The training table of served ads, out of Kafka, and for older logs the snapshots of the data directory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.attributed_rows import PIN_COLUMNS, Actions, actions_of, table_of, write_table
from features.definitions import registry
from index.row_files import ATTRIBUTES, Attributes
from index.snapshots import list_snapshots, read_snapshot
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
_NO_PINS = np.empty(0, ATTRIBUTES)


class SnapshotPins:
    """Pin attributes by snapshot; those of a snapshot that is gone or damaged are not known."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._there = set(list_snapshots(root))
        self._parts: dict[str, Attributes] = {}
        self._joined: tuple[str, Attributes] = ("", _NO_PINS)
        self.missing: set[str] = set()

    def __call__(self, snapshot_id: str, pin_ids: Sequence[int]) -> Mapping[str, list[int | None]]:
        """See `datasets.attributed_rows.PinAttributes`."""
        rows, wanted = self._rows(snapshot_id), np.array(pin_ids, np.int64)
        if not len(rows):
            return {name: [None] * len(pin_ids) for name in PIN_COLUMNS}
        # The last of equal Pin ids is the newest.
        places = np.maximum(np.searchsorted(rows["pin_id"], wanted, side="right") - 1, 0)
        found = (rows["pin_id"][places] == wanted).tolist()
        chosen = rows[places]
        return {
            name: [
                value if there else None for value, there in zip(chosen[field].tolist(), found, strict=True)
            ]
            for name, field in _FIELDS.items()
        }

    def _rows(self, snapshot_id: str) -> Attributes:
        """The rows of a release by Pin id, of the same Pin the newest last, as its snapshots have them.

        A release of several tiers has a snapshot of each, their ids joined by `+`. The Pins of one release
        are held at a time: rows come about in the order in which they were served.
        """
        if self._joined[0] != snapshot_id:
            parts, known = snapshot_id.split("+"), self._parts
            self._parts = {one: known[one] if one in known else self._load(one) for one in parts}
            # The freshest comes first in the id, and last here: of equal revisions it has the newest.
            rows = np.concatenate(list(self._parts.values())[::-1])
            changed, revision = rows["changed_offset"], rows["changed_offset"] + rows["aggregated_offset"]
            self._joined = snapshot_id, rows[np.lexsort((changed, revision, rows["pin_id"]))]
        return self._joined[1]

    def _load(self, snapshot_id: str) -> Attributes:
        # The id comes from a topic: it becomes a path only when it is one of those that are there.
        if snapshot_id in self._there:
            try:
                return read_snapshot(self._root, snapshot_id)[1].attributes
            except Refused:
                pass
        self.missing.add(snapshot_id)
        return _NO_PINS


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
