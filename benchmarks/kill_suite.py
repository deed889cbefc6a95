"""Kills under load: what was lost, wrong, twice or repeated, and how long each recovery took.

`python -m benchmarks.kill_suite [--quick] [--seed N]`. In full: 100,000 events and more than 100 kills of
workers, zombies, lost disks, a cutter and the broker on a real Kafka, started from KAFKA_HOME. Quick:
6,000 events and 12 kills on the embedded broker. The run is `tests.streams.kill_suite`, in a process of
its own, because nothing here imports tests.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.report import report

ROOT = Path(__file__).parent.parent
BAR_FAULTS = 0.0


def main() -> int:
    """Run, print, exit with 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, writes no result file")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    environment = dict(os.environ)
    command = [sys.executable, "-m", "tests.streams.kill_suite", f"--seed={asked.seed}"]
    if asked.quick:
        environment.pop("KAFKA_HOME", None)
    elif "KAFKA_HOME" in environment:
        command.append("--full")
    else:
        print("KAFKA_HOME has to name a Kafka distribution; --quick does without", file=sys.stderr)
        return 2
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode not in (0, 1) or not lines or not lines[-1].startswith("{"):
        return 2
    result = json.loads(lines[-1])
    for one in result["exits"]:
        # The end of a log says why; the rest names files of this machine.
        one["log"] = one["log"].strip().rpartition("\n")[2]
    faults: list[str] = result["faults"]
    return report(
        "kill_suite", len(faults), "broken promises", BAR_FAULTS, not faults, result, quick=asked.quick
    )


if __name__ == "__main__":
    sys.exit(main())
