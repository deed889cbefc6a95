"""Swaps of whole releases, of several tower versions, under load on every entry point.

`python -m benchmarks.swap_storm [--quick]`. Eight client threads ask a real server while CURRENT moves
between prebuilt releases of three tower versions, one move in ten a rollback; every answer is checked on
the spot, and afterwards everything is counted again from the ranking log alone. Phases with swaps and
without take turns, so that both p99s are of the same minutes. The Pins are synthetic and the towers
untrained.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from index.releases import ReleaseStore
from serving.explain import REQUESTS_KEPT
from serving.ranking_log import recount_mixed

from .fixtures import USERS, catalogue, save_release, save_tower
from .ranking_server import Connection, ServerProcess, running_server
from .report import report

PINS, TOWERS, THREADS = 20_000, 3, 8
FULL_SWAPS, QUICK_SWAPS = 1_000, 12
SWAPS_A_PHASE, ROLLBACK_EVERY = 4, 10
WARM_UP_SWAPS = 2 * TOWERS
P99_BAR, RSS_BAR = 1.2, 1.05
POLL_SECONDS = 0.05
THINK_SECONDS = 0.02
"""Pause of a client between requests: the load stays below saturation, so p99 is no queue length."""


@dataclass
class Tally:
    """What one client thread saw. Durations are of ranking requests, by kind of phase."""

    rank: int = 0
    other: int = 0
    mixed: int = 0
    errors: list[str] = field(default_factory=list)
    durations: dict[str, list[float]] = field(
        default_factory=lambda: {"quiet": [], "swaps": [], "warm-up": []}
    )


class Client:
    """One client thread: asks, checks, and notes."""

    def __init__(self, port: int, versions: dict[str, str], phase: Callable[[], str], seed: int) -> None:
        self.tally = Tally()
        self.born = time.monotonic()
        self._connection = Connection(port)
        self._versions = versions
        self._phase = phase
        self._rng = random.Random(seed)
        self._name, self._last = f"c{seed}", ""

    def step(self) -> None:
        """One request to a random entry point."""
        kind = self._rng.choices(
            ("rank", "explain", "status", "ready", "metrics", "releases"), (80, 8, 3, 5, 2, 2)
        )[0]
        if kind == "rank" or not self._last:
            self._rank()
        elif kind == "explain":
            self._explain()
        else:
            paths = {"status": "/v1/status", "ready": "/v2/health/ready", "metrics": "/metrics"}
            self._get(paths.get(kind, "/v1/releases"))

    def _rank(self) -> None:
        phase, request_id = self._phase(), f"{self._name}-{self.tally.rank}"
        started = time.perf_counter()
        user = self._rng.randrange(USERS) + 1
        status, body = self._connection.rank({"user_id": user, "slots": 10, "request_id": request_id})
        self.tally.durations[phase].append(time.perf_counter() - started)
        self.tally.rank += 1
        if status != 200:
            self.tally.errors.append(f"rank {status}: {body[:200]!r}")
            return
        self._check(orjson.loads(body), request_id)
        self._last = request_id

    def _explain(self) -> None:
        found = self._get(f"/v1/explain/{self._last}?pin_id={self._rng.randrange(PINS) + 1}")
        if found is not None:
            self._check(orjson.loads(found), self._last)

    def _get(self, path: str) -> bytes | None:
        self.tally.other += 1
        status, body = self._connection.get(path)
        if status == 200:
            return body
        self.tally.errors.append(f"{path} {status}: {body[:200]!r}")
        return None

    def _check(self, answer: dict[str, Any], request_id: str) -> None:
        """The versions agree with each other and with the release that the answer names."""
        expected = self._versions.get(answer["release_id"])
        came = {answer["query_tower_version"], answer["pin_tower_version"]}
        self.tally.mixed += came != {expected}
        if answer["request_id"] != request_id or len(answer.get("ads", answer.get("winners", []))) != 10:
            self.tally.errors.append(f"wrong answer to {request_id}: {str(answer)[:200]}")


class Storm:
    """The phases, and the threads that ask meanwhile."""

    def __init__(self, server: ServerProcess, store: ReleaseStore, versions: dict[str, str]) -> None:
        self._server, self._store = server, store
        self._order = list(versions)
        self._swaps = 0
        self._phase = "warm-up"
        self._done = threading.Event()
        self.clients = [Client(server.port, versions, lambda: self._phase, seed) for seed in range(THREADS)]

    def run(self, swaps: int) -> dict[str, Any]:
        """Warm up, then take turns; returns what only the server process shows."""
        threads = [threading.Thread(target=self._ask, args=(client,)) for client in self.clients]
        for thread in threads:
            thread.start()
        try:
            self._fill()
            self._swap(WARM_UP_SWAPS)
            rss = [self._server.rss_bytes()]
            while self._swaps < swaps + WARM_UP_SWAPS:
                self._phase = "swaps"
                started = time.perf_counter()
                self._swap(SWAPS_A_PHASE)
                self._phase = "quiet"
                time.sleep(time.perf_counter() - started)
                rss.append(self._server.rss_bytes())
        finally:
            self._done.set()
            for thread in threads:
                thread.join()
        return {"swaps": self._swaps - WARM_UP_SWAPS, "rss_bytes": rss}

    def _fill(self) -> None:
        """Fill what the server remembers of its last answers, which is no leak."""
        with Connection(self._server.port) as connection:
            for number in range(REQUESTS_KEPT):
                connection.rank({"user_id": number % USERS + 1, "slots": 10, "request_id": f"fill-{number}"})

    def _ask(self, client: Client) -> None:
        while not self._done.is_set():
            client.step()
            time.sleep(THINK_SECONDS)

    def _swap(self, count: int) -> None:
        """Move CURRENT `count` times, each time until the server serves it."""
        with Connection(self._server.port) as connection:
            for _ in range(count):
                wanted = move(self._store, self._order, self._swaps + 1)
                deadline = time.monotonic() + 60
                while orjson.loads(connection.get("/v2/health/ready")[1])["release_id"] != wanted:
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"{wanted} was not served within a minute")
                    time.sleep(0.02)
                self._swaps += 1


def move(store: ReleaseStore, order: Sequence[str], number: int) -> str:
    """Every tenth move goes back to the live release's predecessor, the others on in the order.

    `number` counts from 1. Returns the release that is live now, which is another than before.
    """
    if number % ROLLBACK_EVERY == 0:
        return store.rollback(actor="benchmark", reason="storm, back").release_id
    live = store.current()
    wanted = order[(order.index(live) + 1) % len(order)] if live else order[0]
    return store.publish(wanted, actor="benchmark", reason="storm").release_id


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap_storm", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SWAPS} swaps instead of {FULL_SWAPS:,}")
    quick: bool = parser.parse_args(arguments).quick
    with tempfile.TemporaryDirectory(prefix="skewless-storm-") as directory:
        details = storm(Path(directory), QUICK_SWAPS if quick else FULL_SWAPS)
    ok = (
        details["mixed_seen"] == details["mixed_in_log"] == details["errors"] == 0
        and details["responses_in_log"] == details["rank_requests"] + REQUESTS_KEPT
        and details["of_them_rollbacks"] == details["swaps"] // ROLLBACK_EVERY
        and details["p99_ratio"] <= P99_BAR
        and details["rss_ratio"] <= RSS_BAR
    )
    return report("swap_storm", details["mixed_in_log"], "mixed pairs", 0, ok, details, quick=quick)


def storm(data: Path, swaps: int) -> dict[str, Any]:
    """Build the releases, run the storm and count."""
    pins = catalogue(PINS, seed=0)
    towers = [save_tower(data, seed) for seed in range(1, TOWERS + 1)]
    versions = {save_release(data, tower, pins): tower.tower_version for tower in towers}
    store = ReleaseStore(data / "releases")
    store.publish(next(iter(versions)), actor="benchmark", reason="first")
    started = time.monotonic()
    with running_server(data, PINS, POLL_SECONDS) as server:
        storm_ = Storm(server, store, versions)
        seen = storm_.run(swaps)
    seen["seconds"] = round(time.monotonic() - started)
    seen["rollbacks"] = sum(one.action == "rollback" for one in store.audit())
    recount = recount_mixed(data / "logs")
    return _details([client.tally for client in storm_.clients], seen) | {
        "responses_in_log": recount.responses,
        "pairs_in_log": recount.pairs,
        "mixed_in_log": recount.mixed,
        "p99_bar": P99_BAR,
        "rss_bar": RSS_BAR,
    }


def _details(tallies: list[Tally], seen: dict[str, Any]) -> dict[str, Any]:
    quiet, swaps = (
        np.quantile([one for tally in tallies for one in tally.durations[phase]], (0.5, 0.99)).tolist()
        for phase in ("quiet", "swaps")
    )
    errors = [error for tally in tallies for error in tally.errors]
    rss: list[int] = seen["rss_bytes"]
    return {
        "data": "synthetic Pins, untrained towers",
        "pins": PINS,
        "tower_versions": TOWERS,
        "client_threads": THREADS,
        "seconds": seen["seconds"],
        "swaps": seen["swaps"],
        "of_them_rollbacks": seen["rollbacks"],
        "rank_requests": sum(tally.rank for tally in tallies),
        "other_requests": sum(tally.other for tally in tallies),
        "mixed_seen": sum(tally.mixed for tally in tallies),
        "errors": len(errors),
        "first_errors": errors[:3],
        "quiet_p50_seconds": quiet[0],
        "quiet_p99_seconds": quiet[1],
        "swap_p50_seconds": swaps[0],
        "swap_p99_seconds": swaps[1],
        "p99_ratio": swaps[1] / quiet[1],
        "rss_after_warm_up_bytes": rss[0],
        "rss_at_end_bytes": rss[-1],
        "rss_ratio": rss[-1] / rss[0],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
