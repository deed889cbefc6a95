"""Run every benchmark but `kill_suite` and `gpu`, one after the other, each in a process of its own.

`python -m benchmarks [--quick]`. Exit code 1 when one misses its bar, 2 when one fails to run.
"""

import json
import subprocess
import sys

NAMES = (
    "bytes_per_pin",
    "index_curve",
    "index_build",
    "rank",
    "delta_merge",
    "swap_storm",
    "swap_memory",
    "shards",
    "commits",
    "simulation",
    "freshness_skew",
    "swap_endurance",
    "rollover",
    "enrich",
    "windows",
    "stream_steps",
)


def main(arguments: list[str]) -> int:
    """Print one line a benchmark on stdout; what they say meanwhile goes to stderr."""
    worst = 0
    for name in NAMES:
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        lines = done.stdout.strip().splitlines()
        if done.returncode not in (0, 1) or not lines:
            print(
                json.dumps({"name": name, "ok": False, "error": f"exit code {done.returncode}"}), flush=True
            )
            worst = 2
            continue
        print(lines[-1], flush=True)
        worst = max(worst, 0 if json.loads(lines[-1])["ok"] else 1)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
