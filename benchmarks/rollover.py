"""What a rollover costs, and how fresh the served release is before, during and after it.

`python -m benchmarks.rollover [--quick] [--pins N]`. Real processes of the command line (worker, cutter,
`rollover`, `embed`) on a real Kafka (KAFKA_HOME; without it the embedded broker and 20,000 Pins) while a
producer sends changes all the time. Every release is compared Pin by Pin with the one that it replaced:
freshness is its publication less the broker's time of each row that is newer, and at the swap no row may be
older or missing. The Pins are synthetic and the towers untrained, which costs what trained ones do.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.enrich_workload import broker
from benchmarks.report import report
from benchmarks.rollover_run import Phases, RolloverRun, Size, plain_embedding
from schemas.topics import PIN_CHANGED

FULL: tuple[Size, ...] = (Size(92_000, 500, 5.0, 30.0), Size(1_000_000, 1_000, 30.0, 100.0))
QUICK: tuple[Size, ...] = (Size(20_000, 200, 2.0, 8.0),)
P99_BAR = 1.5
"""Event to servable while the candidate takes over, as a multiple of just before."""
RATE_SHARE = 0.9
"""Of the changes a second that a size asks for, so many have to reach the broker."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 Pins; writes no result file")
    parser.add_argument("--pins", type=int, help="only this size, into a file of its own")
    arguments = parser.parse_args()
    real = bool(os.environ.get("KAFKA_HOME"))
    sizes = FULL if real and not arguments.quick else QUICK
    if arguments.pins:
        sizes = tuple(size for size in FULL if size.pins == arguments.pins)
    found: dict[str, Any] = {}
    for size in sizes:
        for backfill in ("worker", "batch"):
            print(f"{size.pins:,} Pins, backfill by {backfill} …", file=sys.stderr, flush=True)
            found[f"{size.pins} {backfill}"] = measure(size, backfill)
            print(json.dumps(found[f"{size.pins} {backfill}"]), file=sys.stderr, flush=True)
    worst = max(one["p99_ratio"] for one in found.values())
    return report(
        "rollover",
        worst,
        "x, event-to-servable p99 in the rollover over just before",
        P99_BAR,
        all(met(one) for one in found.values()),
        found | {"data": "synthetic Pins, untrained towers", "broker": "Kafka" if real else "embedded"},
        quick=arguments.quick or not real,
        file=f"rollover_{arguments.pins}" if arguments.pins else None,
    )


def met(figures: dict[str, Any]) -> bool:
    """Whether one rollover swapped under the load that was asked for, was about as fresh meanwhile, and
    took no row back and lost none.
    """
    swap, rate = figures["swap"], figures["changes_per_second"]
    whole = swap is not None and swap["rows_gone_back"] == 0 and swap["rows_missing"] == 0
    loaded = rate["acknowledged"] >= RATE_SHARE * rate["asked"]
    return bool(whole and loaded and figures["p99_ratio"] <= P99_BAR)


def measure(size: Size, backfill: str) -> dict[str, Any]:
    """One rollover on a broker and a data directory of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="skewless-rollover-") as folder,
        broker(PIN_CHANGED.partitions) as place,
    ):
        run = RolloverRun(place.settings.bootstrap_servers, Path(folder), size, backfill)
        with run.running():
            phases: Phases = run.go()
        return phases.figures() | {"plain_embedding": plain_embedding(Path(folder), size.pins)}


if __name__ == "__main__":
    sys.exit(main())
