"""A million ranking requests while releases are swapped and rolled back, servers and publishers killed.

`python -m benchmarks.swap_endurance [--quick] [--requests N]`. Client threads ask without a pause; a
publisher process moves CURRENT among releases of three tower versions and is killed -9 again and again,
the server too. Every answer is checked on the spot, and all of them again from the ranking log. A request
whose server was killed under it is counted apart: nobody could have answered it. The kills of the server
fall into the first half of the requests: the last server lives through the other half, and what it holds
of memory, files and threads is sampled every minute. How swaps touch the latency is `swap_storm`'s to
say. The Pins are synthetic and the towers untrained.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.releases import ReleaseStore
from serving.ranking_log import recount_mixed

from .fixtures import catalogue, save_release, save_tower
from .ranking_server import RestartableServer
from .report import report
from .soak import Soak
from .swap_storm import Client

PINS, TOWERS, THREADS = 2_000, 3, 8
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Plan:
    """How much of everything. The run ends when all of it has been reached."""

    requests: int = 1_000_000
    swaps: int = 1_000
    rollbacks: int = 100
    server_kills: int = 20
    publisher_kills: int = 100
    publisher_pause_seconds: float = 0.3
    publisher_life_seconds: float = 10.0
    sample_seconds: float = 60.0

    def server_life(self) -> int:
        """Requests between two kills of the server. The one after the last kill answers half of all."""
        return self.requests // (2 * self.server_kills)


FULL = Plan()
QUICK = Plan(4_000, 15, 1, 2, 3, 0.05, 4.0, 1.0)


class Endurance:
    """The processes, the threads that ask, and what they saw."""

    def __init__(self, server: RestartableServer, data: Path, versions: dict[str, str], plan: Plan) -> None:
        self._server, self._data, self._plan = server, data, plan
        self._versions = versions
        self._done = threading.Event()
        self.clients: list[Client] = []
        self.unanswered = 0
        self.soak = Soak(plan.sample_seconds)
        self.moves: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.failure: Exception | None = None

    def run(self) -> None:
        """Until the plan is fulfilled. Raises what a thread has failed with."""
        asking = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(THREADS)]
        publishing = threading.Thread(target=self._publish)
        for thread in (*asking, publishing):
            thread.start()
        try:
            self._watch()
        finally:
            self._done.set()
            for thread in (*asking, publishing):
                thread.join()
        if self.failure is not None:
            raise self.failure

    def _watch(self) -> None:
        """Kill the server when it has answered its share; say how far it is."""
        plan, killed_at, said = self._plan, 0, time.monotonic()
        started = said
        self.soak.begin(self._server.process())
        while not self._is_over() and self.failure is None:
            time.sleep(0.2)
            self.soak.look()
            asked = self._asked()
            if self.kills["server"] < plan.server_kills and asked - killed_at >= plan.server_life():
                self._server.kill_and_restart()
                self.soak.begin(self._server.process())
                self.kills["server"] += 1
                killed_at = asked
            if time.monotonic() - said > 10:
                said = time.monotonic()
                rate = asked / (said - started)
                left = max(plan.requests - asked, 0) / max(rate, 1)
                print(
                    f"{asked:,} requests, {rate:,.0f}/s, {dict(self.moves)}, {left:,.0f} s left",
                    file=sys.stderr,
                )

    def _asked(self) -> int:
        return sum(client.tally.rank for client in list(self.clients))

    def _is_over(self) -> bool:
        plan = self._plan
        return (
            self._asked() >= plan.requests
            and self.moves["publish"] + self.moves["rollback"] >= plan.swaps
            and self.moves["rollback"] >= plan.rollbacks
            and self.kills["server"] >= plan.server_kills
            and self.kills["publisher"] >= plan.publisher_kills
        )

    def _ask(self, seed: int) -> None:
        client: Client | None = None
        life = 0
        while not self._done.is_set():
            try:
                if client is None:
                    if not self._server.is_ready():
                        time.sleep(0.05)
                        continue
                    life += 1
                    name = 1_000 * life + seed
                    client = Client(self._server.port, self._versions, lambda: "swaps", name)
                    self.clients.append(client)
                client.step()
            except (OSError, ValueError, IndexError) as error:
                # Half an answer, or none: only a server that was killed may do that.
                if client is not None and not self._server.was_killed_since(client.born):
                    self._fail(RuntimeError(f"a live server broke a connection: {error!r}"))
                self.unanswered += client is not None
                client = None
                time.sleep(0.05)
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        self._done.set()

    def _publish(self) -> None:
        rng, life = random.Random(1), 0
        while not self._done.is_set():
            life += 1
            pause = str(self._plan.publisher_pause_seconds)
            command = [sys.executable, "-m", "benchmarks.swap_publisher", "--data", str(self._data)]
            command += ["--port", str(self._server.port), "--seed", str(life), "--pause-seconds", pause]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self._done.wait(self._plan.publisher_life_seconds * (0.5 + rng.random()))
            process.send_signal(signal.SIGKILL)
            said, _ = process.communicate()
            if process.returncode != -signal.SIGKILL:
                self._fail(RuntimeError(f"the publisher ended by itself with {process.returncode}"))
            self.kills["publisher"] += 1
            self.moves.update(line.split()[0] for line in said.splitlines())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap_endurance", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.requests:,} requests, no result file")
    parser.add_argument("--requests", type=int, default=FULL.requests, help="ranking requests of a full run")
    chosen = parser.parse_args(arguments)
    plan = QUICK if chosen.quick else Plan(requests=chosen.requests)
    with tempfile.TemporaryDirectory(prefix="skewless-endurance-") as directory:
        details = endurance(Path(directory), plan)
    ok = details["mixed_seen"] == details["mixed_in_log"] == details["errors"] == 0
    return report(
        "swap_endurance", details["mixed_in_log"], "mixed pairs", 0, ok, details, quick=chosen.quick
    )


def endurance(data: Path, plan: Plan) -> dict[str, Any]:
    """Build the releases, run, count."""
    pins = catalogue(PINS, seed=0)
    towers = [save_tower(data, seed) for seed in range(1, TOWERS + 1)]
    versions = {save_release(data, tower, pins): tower.tower_version for tower in towers}
    store = ReleaseStore(data / "releases")
    store.publish(next(iter(versions)), actor="benchmark", reason="first")
    started = time.monotonic()
    with RestartableServer(data, PINS, POLL_SECONDS) as server:
        run = Endurance(server, data, versions, plan)
        run.run()
    seconds = time.monotonic() - started
    recount = recount_mixed(data / "logs")
    tallies = [client.tally for client in run.clients]
    errors = [error for tally in tallies for error in tally.errors]
    return {
        "data": "synthetic Pins, untrained towers",
        "pins": PINS,
        "tower_versions": TOWERS,
        "client_threads": THREADS,
        "seconds": round(seconds),
        "rank_requests": sum(tally.rank for tally in tallies),
        "other_requests": sum(tally.other for tally in tallies),
        "swaps_seen_served": run.moves["publish"] + run.moves["rollback"],
        "of_them_rollbacks": run.moves["rollback"],
        "moves_in_audit": len(store.audit()),
        "server_kills": run.kills["server"],
        "publisher_kills": run.kills["publisher"],
        "unanswered_by_a_killed_server": run.unanswered,
        "mixed_seen": sum(tally.mixed for tally in tallies),
        "errors": len(errors),
        "first_errors": errors[:3],
        "responses_in_log": recount.responses,
        "pairs_in_log": recount.pairs,
        "mixed_in_log": recount.mixed,
        "longest_server_life": run.soak.figures(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
