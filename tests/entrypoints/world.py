"""A data directory with real, tiny artefacts: untrained towers of full shape and a few Pins."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import fixtures
from benchmarks.fixtures import HOUR_MS, save_tower
from features.pin_state import STATUS_CODES, empty_records
from schemas.manifests import SnapshotManifest, TowerManifest

__all__ = ["HOUR_MS", "cut", "save_tower"]


def cut(data: Path, tower: TowerManifest, pins: int, hour: int = 0, title: str = "Pin") -> SnapshotManifest:
    """A snapshot of `pins` Pins, embedded by the tower's Pin half."""
    states = empty_records(np.arange(1, pins + 1))
    states["bid_micros"], states["status"] = 50_000, STATUS_CODES["active"]
    states["daily_budget_micros"] = 10**12
    states["advertiser_id"] = states["pin_id"]
    titles = pa.array([f"{title} {number}" for number in range(pins)], pa.string())
    return fixtures.cut(data, tower, states, titles, HOUR_MS + hour * 3_600_000)
