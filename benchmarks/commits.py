"""Publishing under races, faults, kills, damage and power cuts: what a reader finds, in figures.

`python -m benchmarks.commits [--quick]`. The value is how often anything was found that must not be:
a lost or overwritten move, a pointer to what is not whole, damage that was accepted.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from index.object_store import memory_objects, s3_objects

from .commit_crashes import fail_each_step, replay_crashes
from .commit_damages import damage_all
from .commit_full_disk import fill_at_each_write
from .commit_kills import kill_at_random
from .commit_races import race_of_processes, race_of_threads
from .commit_world import CommitWorld
from .moto_server import location, moto_server
from .report import report

WRITERS, COMMITS = 5, 10
ROLLBACK_BAR_SECONDS = 5.0
_SEED = 1


def main(arguments: list[str]) -> int:
    """Run it and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commits")
    parser.add_argument("--quick", action="store_true", help="20 kills instead of 200; no file is kept")
    quick = parser.parse_args(arguments).quick
    with tempfile.TemporaryDirectory() as name, moto_server() as address:
        details = _local(Path(name), 20 if quick else 200) | _remote(Path(name), address, 5 if quick else 50)
    found = sum(one["wrong"] for one in details.values())
    slow = [one for one in details.values() if one.get("worst_seconds", 0) > ROLLBACK_BAR_SECONDS]
    return report("commits", found, "things wrong", 0, not found and not slow, details, quick=quick)


def _local(data: Path, kills: int) -> dict[str, dict[str, Any]]:
    race = race_of_processes(CommitWorld.on_disk(data / "race"), WRITERS, COMMITS)
    faults, killed = fail_each_step(data / "faults"), kill_at_random(data / "kills", kills, _SEED)
    damages, crashes = damage_all(data / "damages", _SEED), replay_crashes(data / "crashes", _SEED)
    full = fill_at_each_write(data / "full")
    return {
        "race_of_processes": asdict(race) | {"wrong": 0 if race.ok else 1},
        "failing_steps": asdict(faults) | {"wrong": len(faults.wrong)},
        "full_disk": asdict(full) | {"wrong": len(full.wrong)},
        "kills": asdict(killed) | {"wrong": killed.kills - killed.complete},
        "damages": asdict(damages) | {"wrong": damages.tried - damages.refused},
        "power_cuts": asdict(crashes) | {"wrong": len(crashes.dangling)},
        "rollback": _rollbacks(CommitWorld.on_disk(data / "rollback")) | {"wrong": 0},
    }


def _remote(data: Path, address: str, kills: int) -> dict[str, dict[str, Any]]:
    """The object store: races in memory, whose compare-and-set is one step, the rest by S3's protocol."""
    race = race_of_threads(CommitWorld.in_store(data / "s3race", memory_objects()), WRITERS, COMMITS)
    killed = kill_at_random(data / "s3kills", kills, _SEED, address, "kills")
    world = CommitWorld.in_store(data / "s3rollback", s3_objects(location(address, "rollback")))
    return {
        "s3_race_of_threads": asdict(race) | {"wrong": 0 if race.ok else 1},
        "s3_kills": asdict(killed) | {"wrong": killed.kills - killed.complete},
        "s3_rollback": _rollbacks(world) | {"wrong": 0},
    }


def _rollbacks(world: CommitWorld, count: int = 10) -> dict[str, float]:
    """Seconds that a rollback of a small release takes: what does not depend on its size."""
    for hour in range(count + 1):
        world.publish(world.build(hour, hour))
    seconds = []
    for _ in range(count):
        started = time.monotonic()
        world.releases.rollback(actor="benchmark", reason="measured")
        seconds.append(time.monotonic() - started)
    return {"rollbacks": count, "median_seconds": statistics.median(seconds), "worst_seconds": max(seconds)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
