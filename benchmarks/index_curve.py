"""Recall against latency of the approximate indexes, beside the exact scan of the same rows.

`python -m benchmarks.index_curve [--quick]`. Synthetic clustered vectors, single queries, one thread.
`value` is how many times faster than the exact scan IVF is at recall@100 ≥ 0.95. A full run also draws
`docs/images/index_curve.png`.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bytes_per_pin import synthetic_rows
from benchmarks.report import report
from index.builder import lists_for
from index.faiss_index import (
    ApproximateIndex,
    FlatIndex,
    build_hnsw,
    hnsw_index,
    ivf_index,
    threads,
    train_ivf,
)
from index.row_files import Matrix

K = 100
QUERIES = 300
BAR_RECALL = 0.95
BAR_TIMES_EXACT = 3.0
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "index_curve.png"


def main() -> int:
    """Measure, print, exit with 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within 50 s, writes no result file")
    quick: bool = parser.parse_args().quick
    rows = 92_000 if quick else 200_000
    vectors = synthetic_rows(rows).vectors
    random = np.random.default_rng(1)
    near = vectors[random.choice(rows, QUERIES, replace=False)].astype(np.float32)
    queries = near + 0.05 * random.standard_normal(near.shape).astype(np.float32)
    with threads(1):
        exact = FlatIndex(vectors)
        truth = [set(exact.search(query, K, None)[1].tolist()) for query in queries]
        flat_seconds, _ = _point(exact, queries, truth)
        curves = {"ivf": _curve(_ivf(vectors), queries, truth)}
        if not quick:
            curves["hnsw"] = _curve(hnsw_index(build_hnsw(vectors), vectors, 16), queries, truth)
    good = [point["p50_seconds"] for point in curves["ivf"] if point["recall"] >= BAR_RECALL]
    times = flat_seconds / min(good) if good else 0.0
    details = {
        "rows": rows,
        "k": K,
        "vectors": "synthetic",
        "flat_p50_seconds": flat_seconds,
        "curves": curves,
    }
    if not quick:
        _draw(curves, flat_seconds, rows)
    name = "x the speed of the exact scan at recall@100 of 0.95 or more (IVF)"
    return report("index_curve", times, name, BAR_TIMES_EXACT, times >= BAR_TIMES_EXACT, details, quick=quick)


def _ivf(vectors: Matrix) -> ApproximateIndex:
    skeleton, lists = train_ivf(vectors, lists_for(len(vectors)), 0)
    return ivf_index(skeleton, lists, vectors, 1)


def _curve(index: ApproximateIndex, queries: Any, truth: list[set[int]]) -> list[dict[str, float]]:
    """Effort doubled from the index's own until recall is 0.999 or nothing is left to add."""
    points: list[dict[str, float]] = []
    while True:
        seconds, recall = _point(index, queries, truth)
        points.append({"effort": index.effort, "recall": round(recall, 4), "p50_seconds": seconds})
        if recall >= 0.999 or index.effort >= 1024:
            return points
        index = index.at_effort(2 * index.effort)


def _point(index: FlatIndex | ApproximateIndex, queries: Any, truth: list[set[int]]) -> tuple[float, float]:
    seconds, hits = [], 0
    for query, wanted in zip(queries, truth, strict=True):
        started = time.perf_counter()
        _, found = index.search(query, K, None)
        seconds.append(time.perf_counter() - started)
        hits += len(wanted.intersection(found.tolist()))
    return float(np.median(seconds)), hits / (len(queries) * K)


def _draw(curves: dict[str, list[dict[str, float]]], flat_seconds: float, rows: int) -> None:
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only a full run draws

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, points in curves.items():
        axes.plot(
            [1e6 * point["p50_seconds"] for point in points],
            [point["recall"] for point in points],
            marker="o",
            label=name,
        )
    axes.axvline(1e6 * flat_seconds, linestyle="--", color="grey", label="exact scan")
    axes.set_xscale("log")
    axes.set(
        xlabel="p50 of one query, microseconds, one thread",
        ylabel=f"recall@{K}",
        title=f"{rows:,} synthetic vectors, dimension 64",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=130)


if __name__ == "__main__":
    sys.exit(main())
