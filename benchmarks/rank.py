"""`/v1/rank` over loopback beside its bare kernels: what the whole answer costs on top of what it computes.

`python -m benchmarks.rank [--quick]`. A real uvicorn process is asked over one keep-alive connection; the
kernels (query tower forward, index search over the eligible rows) run in this process on the same release,
users and masks. Requests and kernels alternate, so that both see the same machine. The Pins, their vectors
and the towers are synthetic.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from features.definitions import registry
from index.releases import ReleaseStore
from schemas.ranking import RankRequest, RankResponse
from serving.auction import AuctionPolicy
from serving.ledger import SpendLedger
from serving.live_release import Assembly, LiveRelease, ReleaseLoader
from serving.pipeline import FunnelPolicy
from serving.server import tune_interpreter
from serving.user_reader import UserReader

from .fixtures import USERS, catalogue, save_release, save_tower, users
from .ranking_server import Connection, ServerProcess, rank_bytes, running_server
from .report import report

BAR = 1.5
QUICK_SIZES, FULL_SIZES = (92_000,), (92_000, 1_000_000)
WARM_UP, REQUESTS = 300, 2_000
THROUGHPUT_SECONDS = 5.0
CONNECTIONS = 4


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rank", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="92,000 Pins only, fewer requests")
    quick: bool = parser.parse_args(arguments).quick
    sizes, requests = (QUICK_SIZES, REQUESTS // 4) if quick else (FULL_SIZES, REQUESTS)
    details: dict[str, Any] = {"data": "synthetic Pins, untrained towers", "requests": requests}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="skewless-rank-") as directory:
            details[f"pins_{size}"] = measure(Path(directory), size, requests)
    worst = max(details[f"pins_{size}"]["ratio_p50"] for size in sizes)
    return report("rank", worst, "ratio of p50s", BAR, worst <= BAR, details, quick=quick)


def measure(data: Path, size: int, requests: int) -> dict[str, Any]:
    """Build a release of `size` Pins, serve it and measure."""
    release_id = save_release(data, save_tower(data, seed=1), catalogue(size, seed=0))
    ReleaseStore(data / "releases").publish(release_id, actor="benchmark", reason="measured")
    kernels = _kernels(data, size)
    with running_server(data, size) as server, Connection(server.port) as connection:
        ask = partial(_ask, connection)
        for number in range(WARM_UP):
            ask(number)
            kernels(number)
        pairs = [(_timed(ask, number), _timed(kernels, number)) for number in range(requests)]
        found = _compared(np.array(pairs))
        found["server_stages"] = orjson.loads(connection.get("/v1/status")[1])["requests"]["stages"]
        found["requests_per_second"] = _throughput(server)
        found["connections"] = CONNECTIONS
        found["server_rss_bytes"] = server.rss_bytes()
    return found


def _compared(pairs: "np.ndarray[Any, np.dtype[np.float64]]") -> dict[str, Any]:
    (whole_p50, whole_p99), (bare_p50, bare_p99) = np.quantile(pairs, (0.5, 0.99), axis=0).T.tolist()
    return {
        "ratio_p50": whole_p50 / bare_p50,
        "rank_p50_seconds": whole_p50,
        "rank_p99_seconds": whole_p99,
        "kernels_p50_seconds": bare_p50,
        "kernels_p99_seconds": bare_p99,
    }


def _kernels(data: Path, size: int) -> Callable[[int], None]:
    """Query tower and search, and nothing else, for the n-th user."""
    tune_interpreter()
    funnel, now_ms = FunnelPolicy(), time.time_ns() // 1_000_000
    assembly = Assembly(registry().content_hash, AuctionPolicy(), SpendLedger(), lambda: now_ms)
    store = ReleaseStore(data / "releases")
    release: LiveRelease = ReleaseLoader(store, data / "towers", registry(), assembly).load(store.list()[0])
    reader = UserReader(users(size, seed=1))
    askers = [reader.read(RankRequest(user_id=user + 1), now_ms) for user in range(USERS)]
    bitmaps = [release.eligibility.mask(asker.age_band, now_ms).bitmap for asker in askers]

    def run(number: int) -> None:
        asker = askers[number % USERS]
        query = release.query_tower.embed(asker.users, asker.contexts)[0]
        release.index.search(query, funnel.retrieve, bitmaps[number % USERS])

    return run


def _ask(connection: Connection, number: int) -> None:
    status, body = connection.rank({"user_id": number % USERS + 1, "slots": 10})
    if status != 200:
        raise RuntimeError(f"{status}: {body[:300]!r}")
    if number % 100 == 0 and len(RankResponse.model_validate_json(body).ads) != 10:
        raise RuntimeError("an answer has fewer ads than slots")


def _timed(call: Callable[[int], None], number: int) -> float:
    started = time.perf_counter()
    call(number)
    return time.perf_counter() - started


def _throughput(server: ServerProcess) -> float:
    """Answers a second with `CONNECTIONS` connections that ask as fast as they are answered."""
    requests = [rank_bytes({"user_id": user + 1, "slots": 10}) for user in range(USERS)]
    until = time.perf_counter() + THROUGHPUT_SECONDS
    counts = [0] * CONNECTIONS

    def ask(worker: int) -> None:
        with Connection(server.port) as connection:
            while time.perf_counter() < until:
                connection.exchange(requests[(counts[worker] * CONNECTIONS + worker) % USERS])
                counts[worker] += 1

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / THROUGHPUT_SECONDS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
