"""The product's own code, run beside the timeline: embedding table, cuts, releases with their gates, delta.

It has to show exactly the rows that the design `Released` shows; `check` refuses to go on otherwise.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.definitions import registry
from index.builder import build_release
from index.delta import build_segment
from index.delta_fold import Base, DeltaFold
from index.embedding_table import EmbeddedBatch, EmbeddingTable
from index.loading import LoadedIndex, load_index
from index.releases import ReleaseStore
from index.snapshot_retention import retain_snapshots
from index.snapshots import ATTRIBUTES, SnapshotRows, read_snapshot, write_snapshot
from models.predictor import EmbeddedPins
from schemas.errors import Refused
from schemas.manifests import SnapshotManifest

from .freshness_skew_clock import HOUR_MS
from .freshness_skew_rows import Shown
from .freshness_skew_towers import Tower

Records = npt.NDArray[np.void]
_TIER = "realtime"


@dataclass
class Took:
    """Wall and CPU seconds of each time something was done."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def median_ms(self) -> int:
        """Median wall time, rounded up to a millisecond."""
        return int(np.ceil(1000 * float(np.median(self.wall)))) if self.wall else 0

    def mean_cpu(self) -> float:
        """Mean CPU seconds."""
        return float(np.mean(self.cpu)) if self.cpu else 0.0


class timing:
    """Adds what its block takes to a `Took`."""

    def __init__(self, took: Took) -> None:
        self._took = took

    def __enter__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self._took.wall.append(time.perf_counter() - self._wall)
        self._took.cpu.append(time.process_time() - self._cpu)


class Product:
    """Table, snapshots, releases and delta under one directory."""

    def __init__(self, root: Path, towers: list[Tower], titles: list[str]) -> None:
        self._root, self._towers, self._titles = root, towers, titles
        self._store = ReleaseStore(root / "releases")
        self._table = EmbeddingTable()
        self._fold = DeltaFold(max_vectors=len(titles))
        self._loaded: LoadedIndex | None = None
        self.released, self.refreshed, self.sharded = Took(), Took(), Took()
        self.checked = 0
        self.foreign_rows = 0
        """Rows in releases that are not of the release's own version, counted row by row."""

    def live(self, codes: list[int]) -> None:
        """Embeddings of these versions are kept from now on."""
        dimensions = {self._towers[code].version: self._towers[code].pin.dimension for code in codes}
        self._table.keep(dimensions)
        self._fold.keep(dimensions)

    def embedded(
        self, code: int, pins: Records, titles: npt.NDArray[np.intp], embedded: EmbeddedPins
    ) -> None:
        """Rows as the worker writes them; `titles` are the Pins' places in the catalogue."""
        packed = embedded.vectors.astype("<f2")
        batch = EmbeddedBatch(
            attributes=_attributes(pins, embedded.input_mask),
            vectors=[row.tobytes() for row in packed],
            titles=[self._titles[place] for place in titles.tolist()],
            versions=[self._towers[code].version],
            version_code=np.zeros(len(pins), np.uint8),
        )
        self._table.apply(batch)
        if self._loaded is not None:
            self._fold.apply(batch)

    def complete(self, code: int, other: int) -> bool:
        """Whether a candidate has a row for every Pin of another version."""
        return self._table.covers(self._towers[code].version, self._towers[other].version)

    def release(self, code: int, cut_ms: int) -> None:
        """Cut, build, publish, load and warm: what one hour costs."""
        tower = self._towers[code]
        with timing(self.released):
            snapshot = self._snapshot(self._table.rows(tower.version), tower, cut_ms)
            manifest = self._build(snapshot, tower)
            self._store.publish(manifest, actor="benchmark", reason=snapshot.snapshot_id)
            loaded = load_index(self._store, manifest, registry_hash=registry().content_hash)
            loaded.warm()
        if self._loaded is not None:
            self._loaded.close()
        self._loaded = loaded
        foreign = [number for number, name in enumerate(loaded.versions) if name != tower.version]
        self.foreign_rows += int(np.isin(loaded.version_code, foreign).sum())
        self._fold.forget([Base.of(loaded.attributes, loaded.tower_version)])
        self._store.retain(2)
        retain_snapshots(self._root / "snapshots", _TIER, 2)

    def _snapshot(self, rows: SnapshotRows, tower: Tower, cut_ms: int) -> SnapshotManifest:
        return write_snapshot(
            self._root / "snapshots",
            rows,
            tier=_TIER,
            hour_ms=cut_ms - HOUR_MS,
            clock="event",
            pin_inputs=list(tower.pin.inputs),
            offsets={},
        )

    def _build(self, snapshot: SnapshotManifest, tower: Tower) -> str:
        return build_release(
            self._store,
            self._root / "snapshots",
            snapshot.snapshot_id,
            tower=tower.pin.manifest,
            registry_hash=registry().content_hash,
        ).release_id

    def check(self, shown: Shown) -> None:
        """Release and delta together hold, bit for bit, the rows that the timeline searched."""
        assert self._loaded is not None and shown.vectors is not None
        base = Base.of(self._loaded.attributes, self._loaded.tower_version)
        with timing(self.refreshed):
            segment = build_segment(self._fold, base, self._loaded.vectors.shape[1])
        served = self._loaded.vectors.astype(np.float32)
        served[segment.superseded] = segment.vectors.astype(np.float32)
        if segment.counts.new or not np.array_equal(served, shown.vectors):
            differ = int((served != shown.vectors).any(axis=1).sum())
            raise AssertionError(f"release and delta differ from the timeline in {differ} rows")
        self.checked += 1

    def shard(self, shown: Shown, rows: npt.NDArray[np.intp], pins: Records, cut_ms: int) -> None:
        """Write and read a shard of these rows of another design: what an hour costs there."""
        with timing(self.sharded):
            written = self._snapshot(self._mixed(shown, rows, pins), self._towers[0], cut_ms)
            read_snapshot(self._root / "snapshots", written.snapshot_id)

    def refuses(self, shown: Shown, pins: Records, cut_ms: int) -> dict[str, str] | None:
        """What the builder says to another design's rows as one index; None when it builds them."""
        tower = self._towers[int(np.bincount(shown.codes).argmax())]
        rows = self._mixed(shown, np.arange(len(shown), dtype=np.intp), pins)
        snapshot = self._snapshot(rows, tower, cut_ms)
        try:
            self._build(snapshot, tower)
        except Refused as refused:
            return {"code": refused.code, "expected": refused.expected, "came": refused.came}
        return None

    def _mixed(self, shown: Shown, rows: npt.NDArray[np.intp], pins: Records) -> SnapshotRows:
        assert shown.vectors is not None
        return SnapshotRows(
            attributes=_attributes(pins[rows], np.zeros(len(rows), np.int64)),
            vectors=shown.vectors[rows].astype("<f2"),
            versions=[tower.version for tower in self._towers],
            version_code=shown.codes[rows].astype(np.uint8),
            titles=pa.array([self._titles[row] for row in rows.tolist()], pa.string()),
        )


def _attributes(pins: Records, input_mask: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
    attributes = np.zeros(len(pins), ATTRIBUTES)
    for name in ATTRIBUTES.names or ():
        attributes[name] = input_mask if name == "input_mask" else pins[name]
    return attributes
