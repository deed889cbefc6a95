"""End-to-end enrichment rate: our worker against the same job in Faust, on the same broker and bytes.

`python -m benchmarks.enrich [--quick]`. KAFKA_HOME names a Kafka distribution; without it the embedded
broker is used. Rates come from the groups' committed offsets, read from outside of the processes.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.enrich_stages import isolation, stages
from benchmarks.enrich_workload import Broker, GroupProgress, Rate, broker, events, publish, watch
from benchmarks.report import report
from features.definitions import registry
from models.checkpoint import CheckpointNotes, save_checkpoint
from models.towers import TowerConfig, fresh_towers

BAR_TIMES_FAUST = 4.0
BAR_OF_SLOWEST_STAGE = 0.5
FAUST_GROUP = "faust-enrich"
SEED = 20


def main() -> int:
    """Measure, print, exit with 1 below a bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within 50 s, writes no result file")
    quick: bool = parser.parse_args().quick
    # The embedded broker keeps 5 MiB per partition, so everything has to fit into that.
    count, limit_seconds = (100_000, 5.0) if quick else (300_000, 60.0)
    made = events(count, SEED)
    with tempfile.TemporaryDirectory() as folder, broker(_faust_topics()) as place:
        data = Path(folder)
        version = _random_tower(data / "towers")
        publish(place.settings, made)
        run = _Run(place, data, version, count, limit_seconds)
        alone = stages(place.settings, made, data, version)
        one = run.ours("ours-1", processes=1)
        two = run.ours("ours-2", processes=2)
        forms = ("store",) if quick else ("store", "table")
        peers = {form: run.faust(form) for form in forms}
    slowest = min(alone.values())
    peer = max(peers.values(), key=lambda rate: rate.events_per_second)
    times = one.events_per_second / peer.events_per_second if peer.events_per_second else 0.0
    of_slowest = one.events_per_second / slowest
    ok = times >= BAR_TIMES_FAUST and of_slowest >= BAR_OF_SLOWEST_STAGE and one.complete and two.complete
    details: dict[str, Any] = {
        "broker": place.kind,
        "events": count,
        "event_bytes": round(sum(len(value) for _, value in made) / count),
        "ours_events_per_second": round(one.events_per_second),
        "ours_2_processes_events_per_second": round(two.events_per_second),
        "faust_events_per_second": {form: round(rate.events_per_second) for form, rate in peers.items()},
        "faust_events_measured": {form: rate.events for form, rate in peers.items()},
        "stages_alone_events_per_second": {name: round(rate) for name, rate in alone.items()},
        "of_slowest_stage": round(of_slowest, 3),
        "of_slowest_stage_bar": BAR_OF_SLOWEST_STAGE,
        "pill_in_8192": isolation(made),
    }
    return report("enrich", round(times, 2), "x", BAR_TIMES_FAUST, ok, details, quick=quick)


def _faust_topics() -> dict[str, int]:
    return {f"{FAUST_GROUP}-table-pins-changelog": 32}


def _random_tower(root: Path) -> str:
    """A tower of the real size with random weights: its speed does not depend on what it has learnt."""
    model = fresh_towers(registry(), TowerConfig(), SEED)
    notes = CheckpointNotes(registry().content_hash, trained_from_ms=0, trained_until_ms=0, seed=SEED)
    return save_checkpoint(root, model, notes).tower_version


class _Run:
    """Starts workers on one broker and reads their rates."""

    def __init__(self, place: Broker, data: Path, version: str, count: int, limit_seconds: float) -> None:
        self._place, self._data, self._version = place, data, version
        self._count, self._limit_seconds = count, limit_seconds

    def ours(self, group: str, processes: int) -> Rate:
        """The real worker, one or several processes of one group."""
        commands = [
            self._command("benchmarks.enrich_worker", group, self._data / f"{group}-{number}", processes)
            for number in range(processes)
        ]
        with _running(commands):
            return self._watch(group)

    def faust(self, form: str) -> Rate:
        """The Faust worker, one process, its state in one of the two forms (see enrich_faust)."""
        group = f"{FAUST_GROUP}-{form}"
        command = self._command("benchmarks.enrich_faust", group, self._data / group, 1)
        with _running([[*command, f"--form={form}"]]):
            return self._watch(group)

    def _watch(self, group: str) -> Rate:
        progress = GroupProgress(self._place.settings, group)
        try:
            return watch(progress, self._count, self._limit_seconds)
        finally:
            progress.close()

    def _command(self, module: str, group: str, state: Path, processes: int) -> list[str]:
        arguments = {
            "bootstrap-servers": self._place.settings.bootstrap_servers,
            "group": group,
            "state": str(state),
            "towers": str(self._data / "towers"),
            "version": self._version,
            "threads": str(max(1, 2 // processes)),
        }
        return [sys.executable, "-m", module, *(f"--{name}={value}" for name, value in arguments.items())]


@contextmanager
def _running(commands: list[list[str]]) -> Iterator[None]:
    started = [subprocess.Popen(command, stdout=sys.stderr) for command in commands]
    try:
        yield
    finally:
        died = [one for one in started if one.poll() is not None]
        for one in started:
            one.send_signal(signal.SIGTERM)
        for one in started:
            try:
                one.wait(10)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
    if died:
        raise RuntimeError(f"{died[0].args!r} ended by itself with {died[0].returncode}")


if __name__ == "__main__":
    sys.exit(main())
