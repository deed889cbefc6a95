"""A data directory with real, tiny artefacts: untrained towers of full shape and a few Pins."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.fixtures import HOUR_MS, save_tower
from features.definitions import registry
from features.pin_state import STATUS_CODES, empty_records
from index.snapshots import ATTRIBUTES, SnapshotRows, write_snapshot
from models.predictor import PinTower
from schemas.manifests import SnapshotManifest, TowerManifest

__all__ = ["HOUR_MS", "cut", "save_tower"]


def cut(data: Path, tower: TowerManifest, pins: int, hour: int = 0, title: str = "Pin") -> SnapshotManifest:
    """A snapshot of `pins` Pins, embedded by the tower's Pin half."""
    states = empty_records(np.arange(1, pins + 1))
    states["bid_micros"], states["status"] = 50_000, STATUS_CODES["active"]
    states["daily_budget_micros"] = 10**12
    states["advertiser_id"] = states["pin_id"]
    embedded = PinTower.load(data / "towers", tower.tower_version, registry()).embed(states)
    attributes = np.zeros(pins, ATTRIBUTES)
    for name in ATTRIBUTES.names or ():
        attributes[name] = embedded.input_mask if name == "input_mask" else states[name]
    rows = SnapshotRows(
        attributes=attributes,
        vectors=embedded.vectors.astype(np.float16),
        versions=[tower.tower_version],
        version_code=np.zeros(pins, np.uint8),
        titles=pa.array([f"{title} {number}" for number in range(pins)], pa.string()),
    )
    return write_snapshot(
        data / "snapshots",
        rows,
        tier="realtime",
        hour_ms=HOUR_MS + hour * 3_600_000,
        clock="event",
        pin_inputs=list(tower.pin_inputs),
        offsets={},
    )
