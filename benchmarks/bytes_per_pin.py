"""What a Pin costs in a release, on disk and in memory, beside the floor of two bytes per dimension.

    python -m benchmarks.bytes_per_pin [--quick]

Rows are synthetic: clustered unit vectors, attributes with the spread of a retail catalogue, titles of
about 30 characters. Each kind is loaded in a process of its own, so that its memory is only its own.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from benchmarks.report import report
from index.builder import BuildPolicy, build_release
from index.loading import load_index
from index.releases import ReleaseStore
from index.row_files import ATTRIBUTES, Matrix, SnapshotRows
from index.snapshots import write_snapshot
from index.vector_index import pack
from schemas.manifests import Calibration, TowerManifest

DIMENSION = 64
FLOOR_BYTES = 2 * DIMENSION
BAR = 1.25
"""Vectors at their floor, and no more than a quarter of that for everything else about a Pin."""

TOWER, REGISTRY = "a" * 64, "b" * 64
HOUR_MS = 1_514_761_200_000
KINDS: tuple[Literal["flat", "ivf", "hnsw"], ...] = ("flat", "ivf", "hnsw")
_WORDS = ("ground", "coffee", "frozen", "pizza", "yoghurt", "cheddar", "organic", "bread", "juice", "cereal")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="92,000 rows only, not 1,000,000 as well")
    quick = parser.parse_args().quick
    details: dict[str, Any] = {"floor_bytes": FLOOR_BYTES, "dimension": DIMENSION, "rows": "synthetic"}
    for count in (92_000,) if quick else (92_000, 1_000_000):
        details[str(count)] = measure(count)
    last = details[str(count)]
    value = round(last["flat"]["disk_bytes_per_pin"] / FLOOR_BYTES, 3)
    return report(
        "bytes_per_pin",
        value,
        "bytes on disk per Pin (flat), as a multiple of dimension x 2",
        BAR,
        value <= BAR,
        details,
        quick=quick,
    )


def measure(count: int) -> dict[str, Any]:
    """Build and load `count` rows as each kind."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        releases = ReleaseStore(root / "releases")
        snapshot = write_snapshot(
            root / "snapshots",
            synthetic_rows(count),
            tier="benchmark",
            hour_ms=HOUR_MS,
            clock="event",
            pin_inputs=["content_embedding"],
            offsets={},
        )
        for kind in KINDS:
            started = time.perf_counter()
            manifest = build_release(
                releases,
                root / "snapshots",
                snapshot.snapshot_id,
                tower=tower(),
                registry_hash=REGISTRY,
                kind=kind,
                policy=BuildPolicy(threads=len(os.sched_getaffinity(0))),
            )
            built_seconds = time.perf_counter() - started
            sizes = {entry.name: round(entry.size_bytes / count, 2) for entry in manifest.files}
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                loaded = pool.apply(loaded_release, (releases.root, manifest.release_id))
            found[kind] = {
                "disk_bytes_per_pin": round(sum(entry.size_bytes for entry in manifest.files) / count, 2),
                "files_bytes_per_pin": sizes,
                "build_seconds": round(built_seconds, 2),
                "parameters": manifest.index.parameters,
                **loaded,
            }
            print(count, kind, found[kind], file=sys.stderr)
    return found


def loaded_release(root: Path, release_id: str) -> dict[str, Any]:
    """Load in this fresh process: resident bytes, time, and what one query costs."""
    releases = ReleaseStore(root)
    before = _resident_bytes()
    started = time.perf_counter()
    index = load_index(releases, release_id, registry_hash=REGISTRY)
    load_seconds = time.perf_counter() - started
    index.warm()
    after = _resident_bytes()
    queries = 10 * index.vectors[:: max(len(index) // 200, 1)][:200].astype(np.float32)
    allowed = pack(np.random.default_rng(1).random(len(index)) < 0.7)
    return {
        "resident_bytes_per_pin": {
            name: round((after[name] - before[name]) / len(index), 1) for name in after
        },
        "load_seconds": round(load_seconds, 3),
        "search_100_p50_microseconds": _p50([_timed(index.search, q, None) for q in queries]),
        "search_100_of_70_percent_p50_microseconds": _p50(
            [_timed(index.search, q, allowed) for q in queries]
        ),
    }


def _timed(search: Any, query: Any, allowed: Any) -> float:
    started = time.perf_counter()
    search(query, 100, allowed)
    return time.perf_counter() - started


def _p50(seconds: list[float]) -> int:
    return round(float(np.median(seconds)) * 1e6)


def _resident_bytes() -> dict[str, int]:
    """Anonymous memory (ours alone) and mapped file pages (shared between processes)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {"anonymous": 1024 * int(values["RssAnon"]), "mapped": 1024 * int(values["RssFile"])}


def synthetic_rows(count: int, seed: int = 0) -> SnapshotRows:
    """Rows whose columns vary about as much as a catalogue's."""
    random = np.random.default_rng(seed)
    attributes = np.zeros(count, ATTRIBUTES)
    attributes["pin_id"] = np.sort(random.choice(20_000_000, count, replace=False))
    attributes["advertiser_id"] = random.zipf(1.3, count) % 6_000
    attributes["price_micros"] = random.integers(50, 2_000, count) * 10_000
    attributes["bid_micros"] = random.integers(1, 500, count) * 10_000
    attributes["daily_budget_micros"] = random.integers(1, 100, count) * 10_000_000
    attributes["starts_at_ms"] = HOUR_MS - random.integers(0, 365, count) * 86_400_000
    attributes["occurred_at_ms"] = HOUR_MS - random.integers(0, 7 * 86_400_000, count)
    attributes["ingested_at_ms"] = attributes["occurred_at_ms"] + random.integers(0, 2_000, count)
    attributes["changed_offset"] = random.integers(0, 1_000_000, count)
    attributes["aggregated_offset"] = random.integers(-1, 100_000, count)
    attributes["input_mask"] = random.integers(0, 2**10, count)
    attributes["target_ages"] = random.integers(0, 64, count)
    attributes["status"] = 1
    words = random.integers(0, len(_WORDS), (count, 4))
    titles = [" ".join([*(_WORDS[word] for word in row), str(row.sum())]) for row in words]
    return SnapshotRows(
        attributes=attributes,
        vectors=_clustered(count, random),
        versions=[TOWER],
        version_code=np.zeros(count, np.uint8),
        titles=pa.array(titles, pa.string()),
    )


def _clustered(count: int, random: np.random.Generator) -> Matrix:
    centres = random.standard_normal((max(count // 200, 1), DIMENSION), np.float32)
    vectors = np.empty((count, DIMENSION), np.float16)
    for start in range(0, count, 65_536):
        rows = len(vectors[start : start + 65_536])
        chunk = centres[random.integers(len(centres), size=rows)]
        chunk = chunk + 0.7 * random.standard_normal((rows, DIMENSION), np.float32)
        vectors[start : start + rows] = chunk / np.linalg.norm(chunk, axis=1, keepdims=True)
    return vectors


def tower() -> TowerManifest:
    """The manifest of a tower that nobody trained."""
    return TowerManifest(
        tower_version=TOWER,
        family="benchmark",
        dimension=DIMENSION,
        normalised=True,
        registry_hash=REGISTRY,
        query_inputs=[],
        pin_inputs=["content_embedding"],
        config={},
        calibration=Calibration(),
        trained_from_ms=0,
        trained_until_ms=0,
        seed=0,
        files=[],
    )


if __name__ == "__main__":
    sys.exit(main())
