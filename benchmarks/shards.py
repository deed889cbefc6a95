"""One process against a root with two leaves: latency and memory, over the same releases.

`python -m benchmarks.shards [--quick]`. One client asks one query after the other, the two set-ups in turns.
The Pins are synthetic and the tower untrained. On a machine with few cores root and leaves compete for them,
so this is what sharding costs there, not what it gains where every leaf has a machine of its own.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from index.releases import ReleaseStore

from .fixtures import NOW_MS, catalogue, save_release, save_tower
from .ranking_server import Connection
from .report import report
from .shard_processes import Cluster

SHARDS = 2
FULL_PINS, QUICK_PINS = (92_000, 1_000_000), (20_000,)
PATIENT = {"SKEWLESS_LEAF_DEADLINE_SECONDS": "30"}
"""Every answer is to be whole: what is compared is time, not coverage."""
WARM_UP, ROUNDS, REQUESTS = 200, 5, 200


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_PINS[0]} Pins only")
    parser.add_argument("--pins", type=int, nargs="*", help="sizes, instead of the usual ones")
    given = parser.parse_args(arguments)
    sizes = given.pins or (QUICK_PINS if given.quick else FULL_PINS)
    runs = [measured(count) for count in sizes]
    ok = all(run["answers_differ"] == run["partial_answers"] == 0 for run in runs)
    last = runs[-1]["sharded"]["p50_seconds"] / runs[-1]["one_process"]["p50_seconds"]
    details = {"data": "synthetic Pins, untrained tower", "shards": SHARDS, "runs": runs}
    return report("shards", last, "p50 of the shards / p50 of one process", 0, ok, details, quick=given.quick)


def measured(count: int) -> dict[str, Any]:
    """Both set-ups over `count` Pins."""
    with tempfile.TemporaryDirectory(prefix="skewless-shards-") as directory:
        data = Path(directory)
        tower = save_tower(data, seed=1)
        release = save_release(data, tower, catalogue(count, seed=0))
        store = ReleaseStore(data / "releases")
        store.publish(release, actor="benchmark", reason="first")
        kind = store.manifest(release).index.kind
        clusters = {"one_process": Cluster(data, 0), "sharded": Cluster(data, SHARDS, **PATIENT)}
        try:
            for cluster in clusters.values():
                cluster.start()
            for cluster in clusters.values():
                cluster.wait_until_served(release)
            return {"pins": count, "index": kind} | _compared(clusters, count)
        finally:
            for cluster in clusters.values():
                cluster.close()


def _compared(clusters: dict[str, Cluster], count: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in clusters}
    differ = partial = 0
    connections = {name: Connection(cluster.root.port) for name, cluster in clusters.items()}
    try:
        for number, question in enumerate(_questions(count, WARM_UP + ROUNDS * REQUESTS)):
            answers = {}
            for name, connection in connections.items():
                started = time.perf_counter()
                status, body = connection.rank(question)
                if number >= WARM_UP:
                    seconds[name].append(time.perf_counter() - started)
                if status != 200:
                    raise RuntimeError(f"{name} answered {status}: {body[:200]!r}")
                answers[name] = orjson.loads(body)
            partial += answers["sharded"]["coverage"]["shards_answered"] < SHARDS
            differ += answers["sharded"]["ads"] != answers["one_process"]["ads"]
    finally:
        for connection in connections.values():
            connection.close()
    found: dict[str, Any] = {"answers_differ": differ, "partial_answers": partial}
    for name, cluster in clusters.items():
        p50, p99 = np.quantile(seconds[name], (0.5, 0.99)).tolist()
        found[name] = {
            "p50_seconds": p50,
            "p99_seconds": p99,
            "root_rss_bytes": cluster.root.rss_bytes(),
            "leaf_rss_bytes": [leaf.rss_bytes() for leaf in cluster.leaves],
        }
    return found


def _questions(pins: int, count: int) -> list[dict[str, object]]:
    rng = random.Random(1)
    return [
        {
            "user_id": 1,
            "slots": 10,
            "occurred_at_ms": NOW_MS,
            "history": [rng.randrange(1, pins + 1) for _ in range(20)],
        }
        for _ in range(count)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
