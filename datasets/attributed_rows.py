"""Attributed impressions → a training table in Parquet, with each user's actions before the query.

Point in time: of a user's actions only those strictly before the query are in its row, oldest first. The
Pin's attributes are those that the answer was made with, out of its log; a log of before these were logged
leaves the snapshot that it was served from.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.registry import FeatureRegistry
from features.user_state import HISTORY
from schemas.events import EngagementObserved
from schemas.impressions import ImpressionAttributed

from .attributed_columns import COLUMNS, PIN, lineage

Ints = npt.NDArray[np.int64]
PinAttributes = Callable[[str, Sequence[int]], Mapping[str, list[int | None]]]
"""(snapshot id, Pin ids) → values of `PIN_COLUMNS` as the snapshot has them; None where not known."""

LINEAGE_KEY = b"skewless.lineage"
SCHEMA = pa.schema([pa.field(one.name, one.type) for one in COLUMNS])
PIN_COLUMNS = tuple(one.name for one in COLUMNS if one.source == PIN)


class Actions(NamedTuple):
    """Users' actions, sorted by user and time (then Pin and kind); one entry per distinct action."""

    users: Ints
    times: Ints
    pins: Ints
    kinds: npt.NDArray[np.str_]


def actions_of(events: Iterable[EngagementObserved]) -> Actions:
    """Sorted actions; the same action told twice is one."""
    rows = sorted({(one.user_id, one.occurred_at_ms, one.pin_id, one.kind) for one in events})
    users, times, pins, kinds = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Actions(
        np.array(users, np.int64), np.array(times, np.int64), np.array(pins, np.int64), np.array(kinds, str)
    )


def history(actions: Actions, user_id: int | None, before_ms: int, most: int = HISTORY) -> slice:
    """Places of a user's last `most` actions strictly before a moment, oldest first."""
    if user_id is None:
        return slice(0, 0)
    first, last = np.searchsorted(actions.users, [user_id, user_id + 1])
    end = first + int(np.searchsorted(actions.times[first:last], before_ms, side="left"))
    return slice(max(int(first), int(end) - most), int(end))


def table_of(rows: Sequence[ImpressionAttributed], actions: Actions, pins: PinAttributes) -> pa.Table:
    """Rows as a table of `SCHEMA`."""
    columns: dict[str, list[Any]] = {one.name: [] for one in COLUMNS}
    for row in rows:
        places = history(actions, row.user_id, _asked_at(row))
        values = row.model_dump() | {
            "query_vector": _vector(row.query_vector),
            "history_pin_ids": actions.pins[places],
            "history_kinds": actions.kinds[places].tolist(),
            "history_occurred_at_ms": actions.times[places],
        }
        for name in columns.keys() - set(PIN_COLUMNS):
            columns[name].append(values[name])
    columns |= _of_pins(rows, pins)
    return pa.table(columns, schema=SCHEMA)


def _vector(text: str) -> npt.NDArray[np.float32] | None:
    """Base64 of little-endian fp32, as the log has it; None for anything else."""
    try:
        packed = base64.b64decode(text, validate=True)
        return np.frombuffer(packed, "<f4").astype(np.float32)
    except (binascii.Error, ValueError):
        return None


def _asked_at(row: ImpressionAttributed) -> int:
    """The query's time; a row of a log without it was asked when it was served, at the latest."""
    return row.served_at_ms if row.queried_at_ms is None else min(row.queried_at_ms, row.served_at_ms)


def _of_pins(rows: Sequence[ImpressionAttributed], pins: PinAttributes) -> dict[str, list[Any]]:
    """What was logged of each row's Pin. For a row of an older log: what its snapshot says.

    Never some of one and some of the other: they may be of different moments.
    """
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in PIN_COLUMNS}
    by_snapshot: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row.pin_updated_at_ms is None:
            by_snapshot.setdefault(row.snapshot_id, []).append(place)
    for snapshot_id, places in by_snapshot.items():
        found = pins(snapshot_id, [rows[place].pin_id for place in places])
        for name in PIN_COLUMNS:
            for place, value in zip(places, found[name], strict=True):
                columns[name][place] = value
    return columns


def write_table(path: Path, tables: Iterable[pa.Table], registry: FeatureRegistry) -> int:
    """Write tables of `SCHEMA` as one Parquet file, whole or not at all; returns the number of rows.

    The file's metadata holds the lineage of its columns under `skewless.lineage`.
    """
    metadata = {LINEAGE_KEY: json.dumps(lineage(registry)).encode()}
    temporary = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = 0
    try:
        with pq.ParquetWriter(temporary, SCHEMA.with_metadata(metadata), compression="zstd") as writer:
            for table in tables:
                writer.write_table(table.replace_schema_metadata(metadata))
                rows += table.num_rows
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return rows
