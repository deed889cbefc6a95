"""The demo's child processes: the same commands that an operator runs, with their logs kept."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from schemas.errors import RetryableError

_STOP_SECONDS = 20.0


class Children:
    """Starts `skewless …` processes and stops all of them, whatever happens in between."""

    def __init__(self, environment: Mapping[str, str], log_dir: Path) -> None:
        self._environment = {**os.environ, **environment}
        self._log_dir = log_dir
        self._running: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}
        log_dir.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, *arguments: str, nice: int = 0) -> None:
        """Start one command; its stdout and stderr go to `<log_dir>/<name>.log`."""
        log = self.log_file(name).open("wb")
        prefix = ["nice", "-n", str(nice)] if nice else []
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "entrypoints.cli", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone; we stop them in order
        )
        self._running[name] = (process, log)

    def log_file(self, name: str) -> Path:
        """Where a child writes."""
        return self._log_dir / f"{name}.log"

    def check(self) -> None:
        """Raise RetryableError, with the end of its log, when a child has died of an error."""
        for name, (process, _) in self._running.items():
            if process.poll() not in (None, 0):
                tail = self.log_file(name).read_text("utf-8", "replace")[-2000:]
                raise RetryableError(f"`skewless {name}` ended with {process.returncode}:\n{tail}")

    def finished(self, name: str) -> bool:
        """Whether a child has ended well."""
        self.check()
        return self._running[name][0].poll() == 0

    def wait_until(self, what: str, ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Poll until `ready()`; raises RetryableError when a child dies or the time is over."""
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"{what} took more than {timeout_seconds:.0f} s; logs are in {self._log_dir}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM to all, then SIGKILL to what is still there."""
        for process, _ in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for process, log in self._running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()
        self._running.clear()
