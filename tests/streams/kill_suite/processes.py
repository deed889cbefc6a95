"""The processes that are killed, and the supervisor that starts them again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from streams.kafka import KafkaSettings
from tests.streams.kill_suite.plan import Plan

ROOT = Path(__file__).parents[3]
EXIT_SECONDS = 15.0
READY = "SIGTERM is heard from now on"
"""What a process writes to its log when it has a handler for it."""
_START_SECONDS = 30.0
_LOOK_SECONDS = 0.01
_LOG_TAIL = 2_000


def python(module: str, arguments: list[str], options: dict[str, str]) -> list[str]:
    """The command that runs a module of this repository."""
    named = [f"--{option}={value}" for option, value in options.items()]
    return [sys.executable, "-m", module, *arguments, *named]


@dataclass(frozen=True)
class Exit:
    """A process that ended by itself."""

    name: str
    code: int
    log: str


@dataclass
class Child:
    """One process at a time under one name, its output in one file."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    paused: bool = False
    _log_start: int = 0

    @property
    def running(self) -> bool:
        """Started, not ended, not paused."""
        return self.process is not None and self.process.poll() is None and not self.paused

    def wrote(self, text: str) -> bool:
        """Whether its log has this since it was started last."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return text.encode() in log.read()

    def start(self) -> None:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "1",
        }
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=environment, stdout=output, stderr=output
            )

    def kill(self) -> None:
        """SIGKILL; a paused process dies too."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process, self.paused = None, False

    def pause(self) -> None:
        """SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self.paused = True

    def wake(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def terminate(self) -> float:
        """SIGTERM, once it is ready for it; seconds until it had ended, with 0. AssertionError otherwise."""
        if self.process is None:
            return 0.0
        deadline = time.monotonic() + _START_SECONDS
        while not self.wrote(READY) and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        begun = time.monotonic()
        self.process.terminate()
        try:
            code = self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # it has faulthandler on: its log says where it stands
            time.sleep(_LOOK_SECONDS)
            self.kill()
            raise AssertionError(f"{self.name} goes on after SIGTERM: {self.tail()}") from None
        self.process = None
        assert code == 0, f"{self.name} ended with {code} after SIGTERM: {self.tail()}"
        return time.monotonic() - begun

    def ended(self) -> Exit | None:
        """How it ended by itself, if it did."""
        if self.process is None or self.process.poll() is None:
            return None
        code = self.process.wait()
        self.process = None
        return Exit(self.name, code, self.tail())

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text("utf-8", "replace")[-_LOG_TAIL:] if self.log.exists() else ""


@dataclass
class Fleet:
    """Worker slots, each with a disk of its own, and the cutter. What ends by itself is started again."""

    settings: KafkaSettings
    plan: Plan
    root: Path
    workers: list[Child] = field(default_factory=list)
    cutter: Child | None = None
    exits: list[Exit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.workers = [self._worker(number) for number in range(self.plan.workers[1])]
        if self.plan.snapshot_seconds is not None:
            arguments = [self.settings.bootstrap_servers, str(self.snapshots)]
            options = {
                "group": self.settings.cutter_group,
                "every-seconds": str(self.plan.snapshot_seconds),
            }
            self.cutter = self._child("cutter", "tests.streams.cutter_process", arguments, options)

    @property
    def snapshots(self) -> Path:
        """Where the cutter writes."""
        return self.root / "snapshots"

    def _worker(self, number: int) -> Child:
        name = f"worker-{number}"
        arguments = [self.settings.bootstrap_servers, str(self.disk(name)), name, str(self.plan.batch_events)]
        options = {
            "group": self.settings.enrichment_group,
            "session-timeout-ms": str(self.plan.session_timeout_ms),
            "flush-seconds": str(self.plan.flush_seconds),
        }
        return self._child(name, "tests.streams.enrichment_process", arguments, options)

    def _child(self, name: str, module: str, arguments: list[str], options: dict[str, str]) -> Child:
        return Child(name, python(module, arguments, options), self.root / f"{name}.log")

    def disk(self, name: str) -> Path:
        """The state directory of a worker."""
        return self.root / name

    def lose_disk(self, worker: Child) -> None:
        """What the worker knew is gone."""
        shutil.rmtree(self.disk(worker.name), ignore_errors=True)

    @property
    def running(self) -> list[Child]:
        """Workers that work."""
        return [worker for worker in self.workers if worker.running]

    def scale(self, count: int) -> None:
        """Start slots, or drain them, until so many run."""
        idle = [worker for worker in self.workers if worker.process is None]
        for worker in idle[: max(0, count - len(self.running))]:
            worker.start()
        for worker in self.running[count:]:
            worker.terminate()

    def supervise(self) -> None:
        """Start again what ended by itself, and remember that it did."""
        for child in (*self.workers, *([self.cutter] if self.cutter else [])):
            if (ended := child.ended()) is not None:
                self.exits.append(ended)
                child.start()

    def close(self) -> None:
        """End what still runs."""
        for child in (*self.workers, *([self.cutter] if self.cutter else [])):
            child.kill()
