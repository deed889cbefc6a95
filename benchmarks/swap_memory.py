"""How much memory a server needs at the most while it swaps a release, against what one release takes.

`python -m benchmarks.swap_memory [--quick]`. A real server that answers all the time is given one release
after the other; before each swap its peak is reset (`/proc/PID/clear_refs`), after it the peak is read
(VmHWM). A release is its rows, its index and its query tower; what the process takes without one is measured
first, with a release of 100 Pins less its tower's weights, and taken off both sides. Resident memory counts
mapped files too. The Pins are synthetic and the towers untrained.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from index.releases import ReleaseStore
from models.checkpoint import WEIGHTS
from serving.explain import REQUESTS_KEPT

from .fixtures import USERS, catalogue, save_release, save_tower
from .ranking_server import Connection, ServerProcess, running_server
from .report import report

SIZES, QUICK_SIZES = (92_000, 1_000_000), (20_000,)
TOWERS, SWAPS, QUICK_SWAPS, THREADS = 3, 30, 6, 2
SMALL_PINS = 100
PEAK_BAR = 2.0
POLL_SECONDS, THINK_SECONDS, SETTLE_SECONDS = 0.05, 0.005, 0.5
LOAD_SECONDS = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap_memory", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SIZES[0]:,} Pins; writes no result file"
    )
    quick: bool = parser.parse_args().quick
    found = {}
    for pins in QUICK_SIZES if quick else SIZES:
        print(f"{pins:,} Pins …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="skewless-memory-") as folder:
            found[str(pins)] = measure(Path(folder), pins, QUICK_SWAPS if quick else SWAPS)
    worst = max(one["peak_over_one_release"] for one in found.values())
    details = {"data": "synthetic Pins, untrained towers", "client_threads": THREADS} | found
    return report(
        "swap_memory",
        worst,
        "x what one release takes, at the peak of a swap (the process itself taken off)",
        PEAK_BAR,
        worst <= PEAK_BAR,
        details,
        quick=quick,
    )


def measure(data: Path, pins: int, swaps: int) -> dict[str, Any]:
    """Build releases of several tower versions, swap through them and look at the server's memory."""
    towers = [save_tower(data, seed) for seed in range(1, TOWERS + 1)]
    weights = (data / "towers" / towers[0].tower_version / WEIGHTS).stat().st_size
    small = save_release(data, towers[0], catalogue(SMALL_PINS, seed=1))
    whole = catalogue(pins, seed=0)
    releases = [save_release(data, tower, whole) for tower in towers]
    del whole
    store = ReleaseStore(data / "releases")
    manifest = store.manifest(releases[0])
    store.publish(releases[-1], actor="benchmark", reason="first")
    with running_server(data, pins, POLL_SECONDS) as server, _asking(server) as asked:
        _fill(server)
        _swap(server, store, small)
        process = server.rss_bytes() - weights
        peaks, after = [], []
        for number in range(swaps):
            server.reset_peak()
            _swap(server, store, releases[number % TOWERS])
            peaks.append(server.peak_bytes())
            after.append(server.rss_bytes())
        requests = asked()
    # The first swap came from the small release: its peak is not one of two releases.
    peak, serving = max(peaks[1:]), median(after)
    return {
        "index": manifest.index.kind,
        "swaps": swaps,
        "rank_requests": requests,
        "release_and_tower_file_bytes": sum(one.size_bytes for one in manifest.files) + weights,
        "process_without_release_bytes": process,
        "one_release_bytes": serving - process,
        "peak_bytes": peak,
        "peak_over_one_release": round((peak - process) / (serving - process), 2),
        "whole_process_peak_over_serving": round(peak / serving, 2),
        "after_each_swap_bytes": after,
        "peak_of_each_swap_bytes": peaks,
    }


def _fill(server: ServerProcess) -> None:
    """Fill what the server remembers of its last answers, which is no part of a release."""
    with Connection(server.port) as connection:
        for number in range(REQUESTS_KEPT):
            _rank(connection, f"fill-{number}", number)


def _swap(server: ServerProcess, store: ReleaseStore, wanted: str) -> None:
    """Publish; returns when the server has served it for a moment and let go of the one before."""
    store.publish(wanted, actor="benchmark", reason="swap", min_rows_ratio=0)
    deadline = time.monotonic() + LOAD_SECONDS
    with Connection(server.port) as connection:
        while orjson.loads(connection.get("/v2/health/ready")[1])["release_id"] != wanted:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{wanted} was not served within {LOAD_SECONDS:.0f} s")
            time.sleep(0.02)
    time.sleep(SETTLE_SECONDS)


@contextmanager
def _asking(server: ServerProcess) -> Iterator[Callable[[], int]]:
    """Threads that rank all the time; gives a function that says how many answers they got."""
    done, counts = threading.Event(), [0] * THREADS

    def ask(thread: int) -> None:
        with Connection(server.port) as connection:
            while not done.is_set():
                _rank(connection, f"m{thread}-{counts[thread]}", counts[thread])
                counts[thread] += 1
                time.sleep(THINK_SECONDS)

    with ThreadPoolExecutor(THREADS) as pool:
        asking = [pool.submit(ask, thread) for thread in range(THREADS)]
        try:
            yield lambda: sum(counts)
        finally:
            done.set()
        for one in asking:
            one.result()


def _rank(connection: Connection, request_id: str, number: int) -> None:
    body: dict[str, object] = {"user_id": number % USERS + 1, "slots": 10, "request_id": request_id}
    status, answer = connection.rank(body)
    if status != 200:
        raise RuntimeError(f"rank {status}: {answer[:200]!r}")


if __name__ == "__main__":
    sys.exit(main())
