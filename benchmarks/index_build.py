"""How long a release takes to build, load, warm and swap as it grows, beside bare FAISS on the same rows.

`python -m benchmarks.index_build [--quick]`. Rows are synthetic: clustered unit vectors. The overhead is
what a build of ours spends on the index itself (train, assign or insert, write, read back) over what FAISS
alone takes for the same index; reading, proving, hashing and measuring recall are printed beside it.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from benchmarks.bytes_per_pin import DIMENSION, HOUR_MS, REGISTRY, synthetic_rows, tower
from benchmarks.report import report
from index.builder import BuildPolicy, BuildReport, BuiltKind, build_measured, lists_for
from index.faiss_index import HNSW_LINKS, threads
from index.handle import Handle
from index.loading import LoadedIndex, load_index
from index.releases import ReleaseStore
from index.row_files import Matrix
from index.snapshots import write_snapshot

faiss: Any = _faiss

OVERHEAD_BAR = 0.1
INDEX_PHASES = ("faiss", "write_index", "open_index")
KINDS: dict[int, tuple[BuiltKind, ...]] = {
    92_000: ("flat", "ivf", "hnsw"),
    1_000_000: ("flat", "ivf", "hnsw"),
    4_000_000: ("flat", "ivf"),
}
"""HNSW at 4M takes a quarter of an hour on two cores and says nothing that 1M does not."""
_CHUNK_ROWS = 65_536
_FP16, _INNER = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="92,000 rows only; writes no result file")
    quick = parser.parse_args().quick
    cores = len(os.sched_getaffinity(0))
    details: dict[str, Any] = {"rows": "synthetic", "dimension": DIMENSION, "threads": cores}
    overheads = []
    for count, kinds in list(KINDS.items())[: 1 if quick else None]:
        with tempfile.TemporaryDirectory(prefix="skewless-build-") as folder:
            found = _measure(Path(folder), count, kinds, cores)
        details[str(count)] = found
        overheads += [
            found[kind]["overhead"] for kind in kinds if (kind != "flat" and count > 100_000) or quick
        ]
    worst = round(max(overheads), 3)
    return report(
        "index_build",
        worst,
        "share of bare FAISS's time that a build adds to the index (IVF, HNSW; 1M Pins and more)",
        OVERHEAD_BAR,
        worst <= OVERHEAD_BAR,
        details,
        quick=quick,
    )


def _measure(root: Path, count: int, kinds: tuple[BuiltKind, ...], cores: int) -> dict[str, Any]:
    rows = synthetic_rows(count)
    started = time.perf_counter()
    snapshot = write_snapshot(
        root / "snapshots",
        rows,
        tier="benchmark",
        hour_ms=HOUR_MS,
        clock="event",
        pin_inputs=["content_embedding"],
        offsets={},
    )
    found: dict[str, Any] = {"cut_seconds": round(time.perf_counter() - started, 2)}
    releases, policy = ReleaseStore(root / "releases"), BuildPolicy(threads=cores)
    for kind in kinds:
        print(f"{count:,} {kind} …", file=sys.stderr, flush=True)
        before = _bare(rows.vectors, kind, cores)
        built = build_measured(
            releases,
            root / "snapshots",
            [snapshot.snapshot_id],
            tower=tower(),
            registry_hash=REGISTRY,
            kind=kind,
            policy=policy,
        )
        # On both sides of the build, because machines are noisy.
        bare = (before + _bare(rows.vectors, kind, cores)) / 2
        found[kind] = _figures(built, bare, count) | _load(releases, built.manifest.release_id)
    return found


def _figures(built: BuildReport, bare: float, count: int) -> dict[str, Any]:
    index = sum(built.seconds.get(phase, 0.0) for phase in INDEX_PHASES)
    total = sum(built.seconds.values())
    return {
        "bare_faiss_seconds": round(bare, 3),
        "index_seconds": round(index, 3),
        "overhead": round(index / bare - 1, 3),
        "total_seconds": round(total, 2),
        "seconds_per_million_pins": round(total / count * 1e6, 2),
        "phases": {name: round(seconds, 3) for name, seconds in built.seconds.items()},
    }


def _bare(vectors: Matrix, kind: BuiltKind, cores: int) -> float:
    """Seconds of FAISS alone for the same index from the same fp16 rows: train and add."""
    with threads(cores):
        return min(_bare_once(vectors, kind) for _ in range(1 if len(vectors) > 100_000 else 3))


def _bare_once(vectors: Matrix, kind: BuiltKind) -> float:
    started = time.perf_counter()
    if kind == "flat":
        index = faiss.IndexScalarQuantizer(DIMENSION, _FP16, _INNER)
        index.add_sa_codes(np.ascontiguousarray(vectors).view(np.uint8))
        return time.perf_counter() - started
    if kind == "hnsw":
        index = faiss.IndexHNSWSQ(DIMENSION, _FP16, HNSW_LINKS, _INNER)
        index.hnsw.efConstruction = 100
    else:
        lists = lists_for(len(vectors))
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(DIMENSION), DIMENSION, lists, _FP16, _INNER, False
        )
        index.cp.spherical, index.cp.min_points_per_centroid = True, 1
        sample = np.random.default_rng(0).choice(len(vectors), min(len(vectors), 39 * lists), replace=False)
        index.train(vectors[np.sort(sample)].astype(np.float32))
    for start in range(0, len(vectors), _CHUNK_ROWS):
        index.add(vectors[start : start + _CHUNK_ROWS].astype(np.float32))
    return time.perf_counter() - started


def _load(releases: ReleaseStore, release_id: str) -> dict[str, float]:
    """Seconds to read and prove the release, to warm it, and to swap it in."""
    started = time.perf_counter()
    index = load_index(releases, release_id, registry_hash=REGISTRY)
    loaded = time.perf_counter()
    index.warm()
    warmed = time.perf_counter()
    handle: Handle[LoadedIndex] = Handle(index)
    before = time.perf_counter()
    handle.swap(index)
    swapped = time.perf_counter()
    return {
        "load_seconds": round(loaded - started, 3),
        "warm_seconds": round(warmed - loaded, 3),
        "swap_seconds": round(swapped - before, 6),
    }


if __name__ == "__main__":
    sys.exit(main())
