"""The seeded simulation: how long its seeds take, what they break, whether they repeat, and what they catch.

`python -m benchmarks.simulation [--quick] [--processes N]`. In full: 1,000 seeds in a process for each core,
100 of them once more in other processes, and every planted bug until a seed breaks what that bug is meant to
break. The runs are `tests.simulation`, in processes of their own, because nothing here imports tests.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import report

ROOT = Path(__file__).parent.parent
SECONDS_BAR, PLANTED_BAR = 60.0, 8


@dataclass(frozen=True)
class Plan:
    """How much of everything. The seeds that are run again are the first ones."""

    seeds: int = 1_000
    again: int = 100
    planted_seeds: int = 1_000
    bugs: int | None = None
    """None for all that there are."""


QUICK = Plan(seeds=40, again=10, planted_seeds=40, bugs=3)


def main() -> int:
    """Run, print, exit with 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK.seeds} seeds, {QUICK.bugs} bugs, no result file"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=int, default=cores, help="by default one for each core")
    asked = parser.parse_args()
    quick: bool = asked.quick
    workers: int = asked.processes
    details = measure(QUICK if quick else Plan(), workers)
    met = is_met(details) and (quick or len(details["planted_bugs"]) >= PLANTED_BAR)
    return report(
        "simulation",
        details["seconds"],
        f"seconds for {details['seeds']:,} seeds in {workers} processes",
        SECONDS_BAR,
        met,
        details,
        quick=quick,
    )


def measure(plan: Plan, workers: int) -> dict[str, Any]:
    """Run the seeds, some of them again, and the planted bugs."""
    start = time.monotonic()
    first = _simulation(f"--seeds={plan.seeds}", workers)
    seconds = time.monotonic() - start
    second = _simulation(f"--seeds={plan.again}", workers)
    bugs = [] if plan.bugs is None else [f"--bugs={plan.bugs}"]
    start = time.monotonic()
    planted = _simulation(f"--seeds={plan.planted_seeds}", workers, "--planted", *bugs)["first_seeds"]
    pairs = zip(first["digests"][: plan.again], second["digests"], strict=True)
    return {
        "processes": workers,
        "seeds": len(first["digests"]),
        "seconds": round(seconds, 1),
        "seeds_per_second": round(len(first["digests"]) / seconds, 1),
        "events": first["events"],
        "seeds_with_violations": len(first["broken"]),
        "first_violations": first["broken"][:3],
        "seeds_run_again": len(second["digests"]),
        "equal_traces": sum(one == other for one, other in pairs),
        "different_traces": len(set(first["digests"])),
        "planted": len(planted),
        "planted_caught": sum(seed is not None for seed in planted.values()),
        "planted_seconds": round(time.monotonic() - start, 1),
        "planted_bugs": planted,
    }


def is_met(details: dict[str, Any]) -> bool:
    """Whether no seed broke a promise, in the time; traces repeat; every planted bug was caught."""
    return bool(
        details["seconds"] < SECONDS_BAR
        and details["seeds_with_violations"] == 0
        and details["equal_traces"] == details["seeds_run_again"] > 0
        and details["different_traces"] == details["seeds"]
        and details["planted_caught"] == details["planted"] > 0
    )


def _simulation(seeds: str, workers: int, *more: str) -> dict[str, Any]:
    """The JSON object that the simulation prints. Raises RuntimeError when it fails to run."""
    command = [sys.executable, "-m", "tests.simulation", seeds, f"--workers={workers}", "--json", *more]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode not in (0, 1) or not lines or not lines[-1].startswith("{"):
        raise RuntimeError(f"the simulation ended with {done.returncode}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
