"""Synthetic towers, Pins, users and releases for the serving benchmarks. Random, seeded, no real data.

The towers are untrained and the Pins are made up, so scores mean nothing; sizes, types and code paths
are those of a real deployment.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.definitions import registry
from features.pin_state import STATUS_CODES, empty_records
from features.store import MemoryStore
from features.user_state import USER_RECORD, empty_users
from index.builder import build_release
from index.releases import ReleaseStore
from index.snapshots import ATTRIBUTES, SnapshotRows, write_snapshot
from models.checkpoint import CheckpointNotes, save_checkpoint
from models.predictor import PinTower
from models.towers import TowerConfig, fresh_towers
from schemas.manifests import SnapshotManifest, TowerManifest

HOUR_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
NOW_MS = HOUR_MS + 3_600_000
USERS = 1_000
_CATEGORIES = 2_000

Records = npt.NDArray[np.void]


@dataclass(frozen=True)
class Catalogue:
    """Made-up Pins: their states, and titles."""

    pins: Records
    titles: pa.StringArray


def catalogue(count: int, seed: int) -> Catalogue:
    """Pins with bids, budgets that no benchmark empties, some of them paused, ended or targeted."""
    rng = np.random.default_rng(seed)
    pins = empty_records(np.arange(1, count + 1))
    pins["advertiser_id"] = rng.integers(1, 6_000, count)
    pins["price_micros"] = rng.integers(500_000, 20_000_000, count)
    pins["bid_micros"] = rng.integers(2_000, 60_000, count)
    pins["daily_budget_micros"] = 10**15
    pins["status"] = np.where(rng.random(count) < 0.05, STATUS_CODES["paused"], STATUS_CODES["active"])
    pins["ends_at_ms"] = np.where(rng.random(count) < 0.05, HOUR_MS, 0)
    pins["target_ages"] = np.where(rng.random(count) < 0.2, rng.integers(1, 64, count), 0)
    category = rng.integers(0, _CATEGORIES, count)
    pins["category_l3"] = rng.integers(1, 2**32, _CATEGORIES, np.uint32)[category]
    pins["brand"] = rng.integers(1, 2**32, 2, np.uint32)[rng.integers(0, 2, count)]
    pins["title_tokens"][:, :4] = rng.integers(1, 2**32, (5_000,), np.uint32)[
        rng.integers(0, 5_000, (count, 4))
    ]
    # Pins of a category resemble each other, so an inverted-file index finds lists to skip, as in real data.
    centres = rng.standard_normal((_CATEGORIES, pins["content_embedding"].shape[1]), np.float32)
    noise = rng.standard_normal((count, centres.shape[1]), np.float32)
    pins["content_embedding"] = centres[category] + np.float32(0.3) * noise
    pins["ingested_at_ms"] = HOUR_MS - rng.integers(0, 3_600_000, count)
    pins["occurred_at_ms"] = pins["ingested_at_ms"]
    return Catalogue(
        pins, pa.array([f"Synthetic Pin {number}" for number in range(1, count + 1)], pa.string())
    )


def save_tower(data: Path, seed: int) -> TowerManifest:
    """An untrained checkpoint; another seed is another version."""
    model = fresh_towers(registry(), TowerConfig(id_scale=0.02, table_scale=0.3), seed)
    notes = CheckpointNotes(registry().content_hash, HOUR_MS - 1, HOUR_MS, seed)
    return save_checkpoint(data / "towers", model, notes)


def cut(
    data: Path, tower: TowerManifest, pins: Records, titles: pa.StringArray, hour_ms: int = HOUR_MS
) -> SnapshotManifest:
    """A snapshot of Pin states, embedded by the tower's Pin half."""
    embedded = PinTower.load(data / "towers", tower.tower_version, registry()).embed(pins)
    attributes = np.zeros(len(pins), ATTRIBUTES)
    for name in ATTRIBUTES.names or ():
        attributes[name] = embedded.input_mask if name == "input_mask" else pins[name]
    rows = SnapshotRows(
        attributes=attributes,
        vectors=embedded.vectors.astype(np.float16),
        versions=[tower.tower_version],
        version_code=np.zeros(len(attributes), np.uint8),
        titles=titles,
    )
    return write_snapshot(
        data / "snapshots",
        rows,
        tier="realtime",
        hour_ms=hour_ms,
        clock="event",
        pin_inputs=list(tower.pin_inputs),
        offsets={},
    )


def save_release(data: Path, tower: TowerManifest, pins: Catalogue) -> str:
    """Embed, cut a snapshot and build a release of it; returns the id. Nothing is published."""
    snapshot = cut(data, tower, pins.pins, pins.titles)
    store = ReleaseStore(data / "releases")
    built = build_release(
        store,
        data / "snapshots",
        snapshot.snapshot_id,
        tower=tower,
        registry_hash=registry().content_hash,
    )
    return built.release_id


def users(pins: int, seed: int) -> MemoryStore:
    """`USERS` users with full histories, the same in every process for the same arguments."""
    rng = np.random.default_rng(seed)
    ids = np.arange(1, USERS + 1)
    records = empty_users(ids)
    records["age_band"] = rng.integers(0, 7, USERS)
    records["segments"] = rng.integers(1, 2**32, records["segments"].shape, np.uint32)
    shape = records["history_pins"].shape
    records["history_pins"] = rng.integers(1, pins + 1, shape)
    records["history_categories"] = rng.integers(1, 2**32, shape, np.uint32)
    records["history_scores"] = rng.random(shape, np.float32)
    records["last_engaged_at_ms"] = HOUR_MS - rng.integers(0, 30 * 86_400_000, USERS)
    store = MemoryStore(USER_RECORD)
    store.put_many(ids, records, [b""] * USERS)
    return store
