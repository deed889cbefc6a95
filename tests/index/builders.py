"""Small snapshots, towers and releases with obvious contents."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from features.tier_slices import buckets
from index.builder import BuildPolicy, Kind, build_release
from index.release_contract import Releases
from index.releases import ReleaseStore
from index.row_files import ATTRIBUTES, Matrix, SnapshotRows
from index.snapshots import write_snapshot
from schemas.artefacts import MANIFEST, READY, file_entry
from schemas.manifests import Calibration, Offsets, ReleaseManifest, SnapshotManifest, TowerManifest
from schemas.tiers import Tier, Tiers

HOUR_MS = 3_600_000
FIRST_HOUR_MS = 1_514_761_200_000  # 2017-12-31T23:00Z
TOWER_A, TOWER_B = "a" * 64, "b" * 64
REGISTRY, OTHER_REGISTRY = "c" * 64, "d" * 64
INPUTS = ["content_embedding", "brand"]


def unit_vectors(count: int, dimension: int = 8, seed: int = 0) -> Matrix:
    """Clustered, as embeddings are: fp16, length 1."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(count // 50, 4), dimension))
    vectors = centres[random.integers(len(centres), size=count)]
    vectors = vectors + 0.4 * random.standard_normal((count, dimension))
    unit: Matrix = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    return unit


def rows_of(
    count: int, *, versions: tuple[str, ...] = (TOWER_A,), dimension: int = 8, seed: int = 0
) -> SnapshotRows:
    """Pins 1000, 1001, ... dealt out to the versions in turn."""
    attributes = np.zeros(count, ATTRIBUTES)
    attributes["pin_id"] = 1000 + np.arange(count)
    attributes["advertiser_id"] = 7
    attributes["bid_micros"] = 10 * np.arange(count)
    attributes["occurred_at_ms"] = FIRST_HOUR_MS + np.arange(count)
    attributes["ingested_at_ms"] = FIRST_HOUR_MS + 5 + np.arange(count)
    attributes["status"] = 1
    return SnapshotRows(
        attributes=attributes,
        vectors=unit_vectors(count, dimension, seed),
        versions=list(versions),
        version_code=(np.arange(count) % len(versions)).astype(np.uint8),
        titles=pa.array([f"Pin {1000 + i}" for i in range(count)], pa.string()),
    )


TIERS = Tiers(
    tiers=[
        Tier(name="realtime", policy="realtime", first_bucket=0, end_bucket=30),
        Tier(name="batch", policy="batch", first_bucket=30, end_bucket=100),
    ]
)


def split_by_tier(rows: SnapshotRows) -> dict[str, SnapshotRows]:
    """The rows of each of TIERS."""
    found = buckets(rows.attributes["pin_id"])
    return {
        tier.name: rows.take(np.flatnonzero((found >= tier.first_bucket) & (found < tier.end_bucket)))
        for tier in TIERS.tiers
    }


def tower_of(version: str = TOWER_A, *, dimension: int = 8, registry_hash: str = REGISTRY) -> TowerManifest:
    return TowerManifest(
        tower_version=version,
        family="two_tower",
        dimension=dimension,
        normalised=True,
        registry_hash=registry_hash,
        query_inputs=["age"],
        pin_inputs=INPUTS,
        config={},
        calibration=Calibration(slope=2.0, intercept=-1.0),
        trained_from_ms=0,
        trained_until_ms=1,
        seed=1,
        files=[],
    )


@dataclass
class Workshop:
    """A data directory to cut, build and publish in, at a clock that ticks once per look."""

    root: Path
    ticks: int = 0
    releases: Releases = field(init=False)

    def __post_init__(self) -> None:
        self.releases = ReleaseStore(self.root / "releases", self._now_ms)

    def _now_ms(self) -> int:
        self.ticks += 1
        return self.ticks

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    def cut(
        self,
        rows: SnapshotRows,
        hour: int = 0,
        tier: str = "realtime",
        offsets: Offsets | None = None,
    ) -> SnapshotManifest:
        """A cut of the stream; tiers whose name begins with `batch` were embedded all at once."""
        return write_snapshot(
            self.snapshots,
            rows,
            tier=tier,
            hour_ms=FIRST_HOUR_MS + hour * HOUR_MS,
            clock="event",
            pin_inputs=INPUTS,
            offsets={"pin.embedded.v1": {0: 10, 1: 20}} if offsets is None else offsets,
            source="batch" if tier.startswith("batch") else "stream",
        )

    def join(self, cuts: Sequence[SnapshotManifest], policy: BuildPolicy | None = None) -> ReleaseManifest:
        """A release of several snapshots."""
        return build_release(
            self.releases,
            self.snapshots,
            [one.snapshot_id for one in cuts],
            tower=tower_of(),
            registry_hash=REGISTRY,
            policy=policy,
        )

    def build(
        self,
        rows: SnapshotRows,
        hour: int = 0,
        kind: Kind = "auto",
        tower: TowerManifest | None = None,
        policy: BuildPolicy | None = None,
    ) -> ReleaseManifest:
        return build_release(
            self.releases,
            self.snapshots,
            self.cut(rows, hour).snapshot_id,
            tower=tower or tower_of(),
            registry_hash=REGISTRY,
            kind=kind,
            policy=policy,
        )

    def published(self, rows: SnapshotRows, hour: int = 0, kind: Kind = "auto") -> ReleaseManifest:
        manifest = self.build(rows, hour, kind)
        self.releases.publish(manifest.release_id, actor="test", reason="hourly")
        return manifest


def reseal(directory: Path, update: Callable[[dict[str, Any]], None] = lambda document: None) -> None:
    """Change a release's manifest and make every checksum right again, as somebody with tools would."""
    document = json.loads((directory / MANIFEST).read_text())
    names = [entry["name"] for entry in document["files"]]
    document["files"] = [file_entry(directory / name).model_dump() for name in names]
    update(document)
    text = json.dumps(document).encode()
    (directory / MANIFEST).write_bytes(text)
    (directory / READY).write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n")


def unshare(directory: Path) -> None:
    """Give a release files of its own: those it shares with the snapshot must not change with it."""
    for path in directory.iterdir():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
