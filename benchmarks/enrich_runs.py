"""Runs of worker processes, ours and the peers', and their rates as seen from outside of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

from benchmarks.enrich_workload import Broker
from benchmarks.peers.arguments import WorkerArguments
from schemas.topics import PIN_CHANGED

ROOT = Path(__file__).parent.parent
PEERS = {"faust": "agent", "quix": "app", "bytewax": "flow"}
"""Peer -> its module in `benchmarks.peers.<peer>`."""
CORES = 2

_START_UP_SECONDS = 30.0
"""Until the first commit: imports, joining, and the rebalance when a second process joins."""
_STOP_SECONDS = 10


@dataclass(frozen=True)
class Rate:
    """Events per second between the first and the last commit seen, and how many events that were.

    `failed` says why there is no rate, or why it is not that of the whole run.
    """

    events_per_second: float = 0.0
    events: int = 0
    seconds: float = 0.0
    complete: bool = False
    failed: str | None = None

    def figures(self) -> dict[str, float | int | bool | str]:
        """For the result file."""
        plain: dict[str, float | int | bool | str] = {
            "events_per_second": round(self.events_per_second),
            "events": self.events,
            "complete": self.complete,
        }
        return plain | ({"failed": self.failed} if self.failed else {})


class GroupProgress:
    """Reads how far a group has committed, from outside of its processes."""

    def __init__(self, servers: str, group: str, partitions: int) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False}
        )
        self._partitions = [TopicPartition(PIN_CHANGED.name, number) for number in range(partitions)]

    def committed(self) -> int:
        """Events committed, over all partitions; 0 while the group's coordinator is still starting."""
        try:
            answer = self._consumer.committed(self._partitions, timeout=10)
        except KafkaException:
            return 0
        return sum(max(0, one.offset) for one in answer)

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


@dataclass(frozen=True)
class Runs:
    """Starts workers on one broker and reads their rates. `total`: the events that are on it."""

    place: Broker
    data: Path
    version: str
    total: int
    partitions: int
    limit_seconds: float

    def rate(self, name: str) -> Rate:
        """The rate of a run: `ours-<processes>`, or `<peer>-<form>` in one process."""
        who, _, form = name.partition("-")
        if who == "ours":
            processes = int(form)
            return self._measured(name, [self._ours(name, number, processes) for number in range(processes)])
        python = ROOT / ".venv-peers" / who / "bin" / "python"
        if not python.exists():
            return Rate(failed=f"no environment {python.parent.parent.name}: `make peers` makes it")
        module = f"benchmarks.peers.{who}.{PEERS[who]}"
        command = [str(python), "-m", module, *self._arguments(name, name, 1, form).options()]
        return self._measured(name, [command])

    def _ours(self, group: str, number: int, processes: int) -> list[str]:
        arguments = self._arguments(group, f"{group}-{number}", processes, "worker")
        return [sys.executable, "-m", "benchmarks.enrich_worker", *arguments.options()]

    def _arguments(self, group: str, state: str, processes: int, form: str) -> WorkerArguments:
        return WorkerArguments(
            bootstrap_servers=self.place.settings.bootstrap_servers,
            group=f"bench-{group}",
            state=self.data / state,
            towers=self.data / "towers",
            version=self.version,
            threads=max(1, CORES // processes),
            form=form,
        )

    def _measured(self, group: str, commands: list[list[str]]) -> Rate:
        threads = str(max(1, CORES // len(commands)))
        progress = GroupProgress(self.place.settings.bootstrap_servers, f"bench-{group}", self.partitions)
        try:
            with _running(commands, threads) as started:
                return watch(progress, self.total, self.limit_seconds, started)
        finally:
            progress.close()


@contextmanager
def _running(commands: list[list[str]], threads: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    started = [
        subprocess.Popen(command, stdout=sys.stderr, cwd=ROOT, env=environment) for command in commands
    ]
    try:
        yield started
    finally:
        for one in started:
            one.send_signal(signal.SIGTERM)
        for one in started:
            try:
                one.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()


def watch(
    progress: GroupProgress, total: int, limit_seconds: float, started: list[subprocess.Popen[bytes]]
) -> Rate:
    """Watch a group until it has committed `total` events, or for `limit_seconds` after its first commit.

    Before the first commit it waits `_START_UP_SECONDS`. Ends at once when a process has ended by itself.
    """
    begun = time.perf_counter()
    first: tuple[float, int] | None = None
    last = (begun, 0)
    failed: str | None = None
    while last[1] < total and failed is None:
        now, count = time.perf_counter(), progress.committed()
        if count > last[1]:
            last = (now, count)
            first = first or last
        if now - first[0] > limit_seconds if first else now - begun > _START_UP_SECONDS:
            break
        dead = [one.returncode for one in started if one.poll() is not None]
        failed = f"a process ended by itself with {dead[0]}" if dead else None
        time.sleep(0.02)
    if first is None:
        return Rate(failed=failed or f"nothing committed within {_START_UP_SECONDS:.0f} s")
    complete = last[1] >= total
    if last[0] == first[0]:
        # All of it came with one commit: what is left to divide by is the time since the start, start-up
        # and rebalance included, so the rate is far too low rather than too high.
        return Rate(last[1] / (last[0] - begun), last[1], last[0] - begun, complete, failed)
    seconds, count = last[0] - first[0], last[1] - first[1]
    return Rate(count / seconds, count, seconds, complete, failed)
