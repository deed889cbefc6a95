from pathlib import Path

import numpy as np
import pyarrow as pa

from entrypoints.training_table import SnapshotPins
from index.snapshots import ATTRIBUTES, SnapshotRows, write_snapshot
from tests.streams.raw_events import VERSION_A


def snapshot(root: Path) -> str:
    attributes = np.zeros(2, ATTRIBUTES)
    attributes["pin_id"], attributes["price_micros"] = (5, 1), (50, 10)
    rows = SnapshotRows(
        attributes=attributes,
        vectors=np.zeros((2, 4), np.float16),
        versions=[VERSION_A],
        version_code=np.zeros(2, np.uint8),
        titles=pa.array(["", ""]),
    )
    made = write_snapshot(
        root, rows, tier="realtime", hour_ms=0, clock="event", pin_inputs=["pin_id"], offsets={}
    )
    return made.snapshot_id


def test_pins_are_found_in_their_snapshot_and_unknown_ones_are_none(tmp_path: Path) -> None:
    name = snapshot(tmp_path)
    pins = SnapshotPins(tmp_path)

    assert pins(name, [1, 2, 5, 9])["pin_price_micros"] == [10, None, 50, None]
    assert pins("../elsewhere", [1])["pin_price_micros"] == [None]
    assert pins.missing == {"../elsewhere"}


def test_a_damaged_snapshot_is_not_known(tmp_path: Path) -> None:
    name = snapshot(tmp_path)
    for path in (tmp_path / name).iterdir():
        path.write_bytes(b"damaged")

    assert SnapshotPins(tmp_path)(name, [1])["pin_price_micros"] == [None]
