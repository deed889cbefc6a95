"""A data directory with real, tiny artefacts: untrained towers of full shape and a few Pins."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks import fixtures
from benchmarks.fixtures import HOUR_MS, save_tower
from features.definitions import registry
from features.pin_state import STATUS_CODES, empty_records
from features.tier_slices import in_tier
from index.snapshots import read_snapshot, write_snapshot
from models.checkpoint import CheckpointNotes, save_checkpoint
from models.towers import TowerConfig, fresh_towers
from schemas.manifests import SnapshotManifest, TowerManifest
from schemas.tiers import read_tiers
from schemas.topics import PIN_FEATURES

__all__ = ["HOUR_MS", "cut", "cut_tier", "save_hot_tower", "save_tower"]


def save_hot_tower(data: Path, seed: int) -> TowerManifest:
    """A checkpoint whose query half embeds everything as infinity; its Pin half is in order."""
    model = fresh_towers(registry(), TowerConfig(id_scale=0.02, table_scale=0.3), seed)
    with torch.no_grad():
        model.query.log_inverse_temperature.fill_(200.0)
    notes = CheckpointNotes(registry().content_hash, HOUR_MS - 1, HOUR_MS, seed)
    return save_checkpoint(data / "towers", model, notes)


def cut(data: Path, tower: TowerManifest, pins: int, hour: int = 0, title: str = "Pin") -> SnapshotManifest:
    """A snapshot of `pins` Pins, embedded by the tower's Pin half."""
    states = empty_records(np.arange(1, pins + 1))
    states["bid_micros"], states["status"] = 50_000, STATUS_CODES["active"]
    states["daily_budget_micros"] = 10**12
    states["advertiser_id"] = states["pin_id"]
    titles = pa.array([f"{title} {number}" for number in range(pins)], pa.string())
    return fixtures.cut(data, tower, states, titles, HOUR_MS + hour * 3_600_000)


def cut_tier(
    data: Path, tower: TowerManifest, tier: str, pins: int, hour: int = 0, end: int = 0
) -> SnapshotManifest:
    """A snapshot of those of `pins` Pins that belong to a tier of `data/tiers.json`.

    `end`: the offset up to which a batch snapshot read the states.
    """
    whole = cut(data, tower, pins, hour)
    _, rows = read_snapshot(data / "snapshots", whole.snapshot_id)
    mine = in_tier(rows.attributes["pin_id"], read_tiers(data / "tiers.json", tier).named(tier))
    shutil.rmtree(data / "snapshots" / whole.snapshot_id)
    return write_snapshot(
        data / "snapshots",
        rows.take(np.flatnonzero(mine)),
        tier=tier,
        hour_ms=whole.hour_ms,
        clock="event",
        pin_inputs=whole.pin_inputs,
        offsets={PIN_FEATURES.name: {0: end}} if end else {},
        source="batch" if tier == "batch" else "stream",
    )
