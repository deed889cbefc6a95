"""From a snapshot to a release: gates first, then the index, then one complete, unpublished directory."""

import hashlib
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from schemas.artefacts import (
    file_entry,
    manifest_bytes,
    publish_staged,
    staged,
    verify_files,
    write_manifest,
)
from schemas.errors import Refused
from schemas.manifests import CheckResult, IndexSpec, ReleaseManifest, SnapshotManifest, TowerManifest

from . import checks
from .contents import FILES, TRAINED, open_index, release_manifest, write_lists
from .faiss_index import ApproximateIndex, FlatIndex, build_hnsw, threads, train_ivf, write_trained
from .releases import ReleaseStore
from .row_files import ATTRIBUTES_FILE, VECTORS, Matrix, SnapshotRows
from .snapshots import hour_name, read_snapshot

Kind = Literal["auto", "flat", "ivf", "hnsw"]
BuiltKind = Literal["flat", "ivf", "hnsw"]

FLAT_UP_TO_ROWS = 200_000
"""An exact scan of so many takes about a millisecond; above it, `auto` builds IVF."""

_MAX_LISTS = 65_535
_FIRST_EFFORT = {"ivf": 4, "hnsw": 32}
_EFFORT_NAME = {"ivf": "nprobe", "hnsw": "ef_search"}
_MAX_EF_SEARCH = 4096


@dataclass(frozen=True)
class BuildPolicy:
    """What a build insists on, and what it may use."""

    min_rows_ratio: float = 0.5
    min_recall: float = 0.95
    recall_at: int = 100
    recall_queries: int = 256
    threads: int = 1
    seed: int = 0


def build_release(
    releases: ReleaseStore,
    snapshots: Path,
    snapshot_id: str,
    *,
    tower: TowerManifest,
    registry_hash: str,
    kind: Kind = "auto",
    policy: BuildPolicy | None = None,
) -> ReleaseManifest:
    """Build `snapshots/<snapshot_id>` into a complete release that is not live yet (`ReleaseStore.publish`).

    Building the same again returns the release that is there. Raises Refused when a check fails; then
    nothing is left behind.
    """
    policy = policy or BuildPolicy()
    snapshot, rows = read_snapshot(snapshots, snapshot_id)
    passed = _gates(releases, snapshot, rows, tower, policy)
    passed.append(checks.registry(tower.registry_hash, registry_hash))
    kind = kind_for(len(rows)) if kind == "auto" else kind
    with staged(releases.root) as directory, threads(policy.threads):
        spec, check = _write_index(directory, rows.vectors, kind, tower.tower_version, policy)
        for name in (VECTORS, ATTRIBUTES_FILE):
            _link_or_copy(snapshots / snapshot_id / name, directory / name)
        manifest = ReleaseManifest(
            release_id="unnamed",
            tower_version=tower.tower_version,
            index=spec,
            calibration=tower.calibration,
            registry_hash=registry_hash,
            snapshot_id=snapshot_id,
            tier=snapshot.tier,
            hour_ms=snapshot.hour_ms,
            offsets=snapshot.offsets,
            newest_event_ms=snapshot.newest_event_ms,
            newest_ingest_ms=snapshot.newest_ingest_ms,
            checks=[*passed, check],
            files=[file_entry(directory / name) for name in FILES[kind]],
        )
        return _publish(releases, directory, manifest)


def _gates(
    releases: ReleaseStore,
    snapshot: SnapshotManifest,
    rows: SnapshotRows,
    tower: TowerManifest,
    policy: BuildPolicy,
) -> list[CheckResult]:
    """Everything that can be said without the index, cheapest first."""
    live = releases.comparable_live()
    passed = [
        checks.row_count(len(rows), snapshot.rows, snapshot.snapshot_id),
        checks.not_empty(len(rows)),
        checks.one_tower_version(rows, tower.tower_version),
        checks.dimension(rows.vectors, tower.dimension),
        checks.pin_inputs(snapshot, tower),
        checks.not_stale(snapshot.hour_ms, live),
        checks.enough_rows(len(rows), live, policy.min_rows_ratio),
        checks.unique_pins(rows.attributes["pin_id"]),
        checks.finite(rows.vectors),
    ]
    return [*passed, checks.unit_length(rows.vectors)] if tower.normalised else passed


def _write_index(
    directory: Path, vectors: Matrix, kind: BuiltKind, tower_version: str, policy: BuildPolicy
) -> tuple[IndexSpec, CheckResult]:
    """Write what `kind` keeps beside the vectors, read it back, and measure what it finds."""
    rows, dimension = vectors.shape
    spec = IndexSpec(kind=kind, rows=rows, dimension=dimension, tower_version=tower_version)
    if kind == "flat":
        return spec, CheckResult(name="recall", ok=True, detail="exact")
    parameters: dict[str, int] = {}
    if kind == "ivf":
        nlist = lists_for(rows)
        skeleton, lists = train_ivf(vectors, nlist, policy.seed)
        write_trained(skeleton, directory / TRAINED)
        write_lists(directory, lists)
        parameters["nlist"] = nlist
    else:
        write_trained(build_hnsw(vectors), directory / TRAINED)

    first = spec.model_copy(update={"parameters": {_EFFORT_NAME[kind]: _FIRST_EFFORT[kind]}})
    index = open_index(directory, first, vectors)
    assert isinstance(index, ApproximateIndex)
    limit = parameters.get("nlist", _MAX_EF_SEARCH)
    effort, measured = least_effort(index, limit, vectors, policy)
    parameters |= {
        _EFFORT_NAME[kind]: effort,
        f"recall_at_{policy.recall_at}_ppm": int(measured * 1_000_000),
    }
    check = checks.recall(measured, policy.min_recall, policy.recall_at, min(policy.recall_queries, rows))
    return spec.model_copy(update={"parameters": parameters}), check


def least_effort(
    index: ApproximateIndex, limit: int, vectors: Matrix, policy: BuildPolicy
) -> tuple[int, float]:
    """The least effort, doubled from the index's own up to `limit`, that reaches the policy's recall.

    Returns it with the recall@k that was measured against an exact scan, a sample of the Pins' own
    vectors being the queries (real queries are elsewhere in the space: serving measures those).
    """
    rows = len(vectors)
    sample = np.random.default_rng(policy.seed).choice(rows, min(rows, policy.recall_queries), replace=False)
    queries = vectors[np.sort(sample)].astype(np.float32)
    exact = FlatIndex(vectors)
    worst = np.array([exact.search(query, policy.recall_at, None)[0][-1] for query in queries])
    wanted = len(queries) * min(policy.recall_at, rows)
    while True:
        # A row as near as the last of the true ones counts, whichever of equals came.
        found = [index.search(query, policy.recall_at, None)[0] for query in queries]
        hits = sum(int((dots >= last - 1e-6).sum()) for dots, last in zip(found, worst, strict=True))
        if hits >= policy.min_recall * wanted or index.effort >= limit:
            return index.effort, hits / wanted
        index = index.at_effort(min(2 * index.effort, limit))


def kind_for(rows: int) -> BuiltKind:
    """What `auto` builds for so many rows."""
    return "flat" if rows <= FLAT_UP_TO_ROWS else "ivf"


def lists_for(rows: int) -> int:
    """Inverted lists for so many rows: the power of two next to 2·sqrt(rows), at least 1."""
    return min(1 << max(round(math.log2(2 * math.sqrt(rows))), 0), rows, _MAX_LISTS)


def _link_or_copy(source: Path, target: Path) -> None:
    """Artefacts never change, so a release shares the snapshot's bytes where the file system can."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _publish(releases: ReleaseStore, directory: Path, manifest: ReleaseManifest) -> ReleaseManifest:
    """Name the release by its content and put it in its place."""
    # The checks mention what was live at the time; the same release built later is still the same.
    content = manifest_bytes(manifest.model_copy(update={"checks": []}))
    digest = hashlib.sha256(content).hexdigest()
    name = f"{hour_name(manifest.hour_ms)}-{manifest.tower_version[:8]}-{digest[:8]}"
    final = releases.directory(name)
    manifest = manifest.model_copy(update={"release_id": name})
    write_manifest(directory, manifest)
    try:
        publish_staged(directory, final)
    except Refused as refused:
        if refused.code != "already_exists":
            raise
        manifest = release_manifest(final)
        verify_files(final, manifest.files)
    return manifest
