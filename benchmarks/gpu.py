"""What a CUDA device does: the exact scan and the Pin tower, each beside its floor of bytes.

`python -m benchmarks.gpu [--quick] [--device cpu]`, or `make gpu`, which runs the GPU tests first. Rows are
synthetic unit vectors. Without the device it measures nothing and ends with 2; `--device cpu` tries the
benchmark itself and writes no result.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fixtures import save_tower
from benchmarks.report import report
from features.definitions import registry
from features.pin_state import empty_records
from index.row_files import Matrix
from index.vector_index import pack
from models.predictor import PinTower
from serving.torch_index import TorchIndex

DIMENSION, TOP = 64, 1_000
ROWS, QUICK_ROWS = 10_000_000, 200_000
SCAN_BAR_MS, PINS_PER_SECOND_BAR = 1.0, 1_000_000
REPEATS = 200
BATCH = 65_536
_CHUNK = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows, writes no result file")
    parser.add_argument("--device", default="cuda", help="torch device")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device: nothing is measured", file=sys.stderr)
        return 2
    small = arguments.quick or arguments.device == "cpu"
    count = QUICK_ROWS if small else ROWS
    found = {"scan": scan(count, arguments.device), "tower": tower(arguments.device)}
    value = found["scan"]["p50_ms"]
    met = value <= SCAN_BAR_MS and found["tower"]["pins_per_second"] >= PINS_PER_SECOND_BAR
    bars = {"scan_ms": SCAN_BAR_MS, "pins_per_second": PINS_PER_SECOND_BAR}
    unit = f"ms, exact top {TOP} of {count:,} x {DIMENSION} fp16"
    return report("gpu", value, unit, SCAN_BAR_MS, met, found | {"bars": bars}, quick=small)


def unit_rows(count: int) -> Matrix:
    """Random unit vectors, fp16 [count, 64], made in chunks."""
    rng, rows = np.random.default_rng(0), np.empty((count, DIMENSION), np.float16)
    for start in range(0, count, _CHUNK):
        chunk = rng.standard_normal((min(_CHUNK, count - start), DIMENSION), np.float32)
        rows[start : start + len(chunk)] = chunk / np.linalg.norm(chunk, axis=1, keepdims=True)
    return rows


def scan(count: int, device: str) -> dict[str, Any]:
    """One query at a time, answer in host memory; beside reading the rows once with a reduction."""
    rows = unit_rows(count)
    index = TorchIndex(rows, device)
    queries = np.random.default_rng(1).standard_normal((REPEATS, DIMENSION)).astype(np.float32) * 3
    half = pack(np.arange(count) % 2 == 0)
    exact = np.argsort(-(rows[:_CHUNK].astype(np.float32) @ queries[0]), kind="stable")[:TOP]
    alone = TorchIndex(rows[:_CHUNK], device).search(queries[0], TOP, None)[1]
    on_device = torch.from_numpy(rows).to(device)

    def touch() -> None:
        # Every byte of the rows is read and next to nothing is written: the least that a scan can cost.
        on_device.view(torch.int32).amax()
        _wait(device)

    plain = [_milliseconds(lambda q=q: index.search(q, TOP, None)) for q in queries]  # type: ignore[misc]
    filtered = [_milliseconds(lambda q=q: index.search(q, TOP, half)) for q in queries]  # type: ignore[misc]
    floor = min(_milliseconds(touch) for _ in range(20))
    return {
        "rows": count,
        "p50_ms": round(float(np.median(plain)), 3),
        "p99_ms": round(float(np.quantile(plain, 0.99)), 3),
        "half_filtered_p50_ms": round(float(np.median(filtered)), 3),
        "floor_ms": round(floor, 3),
        "of_floor": round(float(np.median(plain)) / floor, 2),
        "overlap_with_numpy": float(np.isin(alone, exact).mean()),
    }


def tower(device: str) -> dict[str, Any]:
    """Pins a second through the Pin tower, host to host."""
    with tempfile.TemporaryDirectory() as folder:
        version = save_tower(Path(folder), seed=0).tower_version
        loaded = PinTower.load(Path(folder) / "towers", version, registry(), device)
        pins = empty_records(np.arange(BATCH, dtype=np.int64))
        loaded.embed(pins)
        seconds = min(_milliseconds(lambda: loaded.embed(pins)) for _ in range(10)) / 1000
    return {"batch": BATCH, "pins_per_second": round(BATCH / seconds)}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    sys.exit(main())
