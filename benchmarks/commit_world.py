"""Releases of a few rows, for whoever publishes hundreds of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from index.builder import build_release
from index.contents import read_release
from index.object_releases import ObjectReleases, Places
from index.object_store import Objects
from index.release_contract import Releases
from index.releases import ReleaseStore
from index.row_files import ATTRIBUTES, SnapshotRows
from index.snapshots import write_snapshot
from schemas.artefacts import publish_directory, write_manifest
from schemas.manifests import Calibration, TowerManifest

HOUR_MS = 3_600_000
FIRST_HOUR_MS = 1_514_761_200_000
ROWS = 30
_DIMENSION = 8
_TOWER, _REGISTRY = "a" * 64, "c" * 64


@dataclass(frozen=True)
class CommitWorld:
    """A data directory and a store over it; `releases` may be any store whose root is in it."""

    data: Path
    releases: Releases

    @classmethod
    def on_disk(cls, data: Path) -> "CommitWorld":
        """With the store of the local disk."""
        return cls(data, ReleaseStore(data / "releases"))

    @classmethod
    def in_store(cls, data: Path, objects: Objects) -> "CommitWorld":
        """With an object store, and this directory for what is built and copied, and for the tower."""
        if not (data / "towers" / _TOWER).is_dir():
            publish_directory(data / "towers" / _TOWER, lambda stage: write_manifest(stage, _tower()))
        return cls(data, ObjectReleases(objects, Places(data / "releases", data / "towers")))

    def build(self, seed: int, hour: int = 0, kind: Literal["flat", "ivf"] = "flat") -> str:
        """Cut and build a release that no other seed gives; returns its id. Not published."""
        snapshot = write_snapshot(
            self.data / "snapshots",
            _rows(seed, ROWS),
            tier="realtime",
            hour_ms=FIRST_HOUR_MS + hour * HOUR_MS,
            clock="event",
            pin_inputs=["brand"],
            offsets={},
        )
        return build_release(
            self.releases,
            self.data / "snapshots",
            snapshot.snapshot_id,
            tower=_tower(),
            registry_hash=_REGISTRY,
            kind=kind,
        ).release_id

    def publish(self, release_id: str, why: str = "hourly") -> None:
        """Make it live, whatever is."""
        self.releases.publish(release_id, actor="benchmark", reason=why)

    def live_is_complete(self) -> str | None:
        """Open what CURRENT names, every checksum included; returns its id. Raises Refused."""
        current = self.releases.current()
        if current is not None:
            read_release(self.releases.fetch(current))
        return current


def _rows(seed: int, count: int) -> SnapshotRows:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, _DIMENSION))
    attributes = np.zeros(count, ATTRIBUTES)
    attributes["pin_id"] = 1000 + np.arange(count)
    attributes["occurred_at_ms"] = FIRST_HOUR_MS + seed
    attributes["ingested_at_ms"] = FIRST_HOUR_MS + seed
    attributes["status"] = 1
    return SnapshotRows(
        attributes=attributes,
        vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16),
        versions=[_TOWER],
        version_code=np.zeros(count, np.uint8),
        titles=pa.array([f"Pin {1000 + i}" for i in range(count)], pa.string()),
    )


def _tower() -> TowerManifest:
    return TowerManifest(
        tower_version=_TOWER,
        family="two_tower",
        dimension=_DIMENSION,
        normalised=True,
        registry_hash=_REGISTRY,
        query_inputs=["age"],
        pin_inputs=["brand"],
        config={},
        calibration=Calibration(),
        trained_from_ms=0,
        trained_until_ms=1,
        seed=1,
        files=[],
    )
