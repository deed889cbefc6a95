"""Leaves and roots as real processes over one data directory."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from .ranking_server import HOST, Connection, ServerProcess

START_SECONDS = 90.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Poll; fails loudly when it does not come true."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come true in time")
        time.sleep(0.02)


def get_json(port: int, path: str) -> dict[str, Any] | None:
    """The document, whatever the status; None when nobody answers."""
    try:
        with Connection(port) as connection:
            body = connection.get(path)[1]
    except OSError:
        return None
    answer: dict[str, Any] = orjson.loads(body)
    return answer


class Process:
    """One `skewless` process that can be ended and started again on the same port."""

    def __init__(self, arguments: list[str], data: Path, port: int, settings: dict[str, str]) -> None:
        self.port = port
        self._arguments = arguments
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("SKEWLESS_")} | {
            "SKEWLESS_DATA_DIR": str(data),
            "SKEWLESS_DRAIN_SECONDS": "0",
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it listens some seconds later."""
        command = [sys.executable, "-m", "entrypoints.cli", *self._arguments]
        self._process = subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL)

    def read(self, data: Path) -> None:
        """From the next start on, from this data directory."""
        self._environment["SKEWLESS_DATA_DIR"] = str(data)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._running().send_signal(number)

    def kill(self) -> None:
        """Kill -9, and gone."""
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Its exit code."""
        return self._running().wait(30)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError("it was not started")
        return self._process

    def rss_bytes(self) -> int:
        """Resident memory."""
        return ServerProcess(self.port, self._running().pid).rss_bytes()

    def close(self) -> None:
        """End it in order, however it is."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(30)


class Cluster:
    """`shards` leaves and a root; with 0 shards one server that holds everything."""

    def __init__(self, data: Path, shards: int, **settings: str) -> None:
        ports = [free_port() for _ in range(shards)]
        self.leaves = [
            Process(["leaf", "--shard", f"{n}/{shards}"], data, port, {"SKEWLESS_LEAF_PORT": str(port)})
            for n, port in enumerate(ports, start=1)
        ]
        port = free_port()
        addresses = ",".join(f"{HOST}:{one}" for one in ports)
        of_root = {"SKEWLESS_LEAVES": addresses, "SKEWLESS_HTTP_PORT": str(port)}
        self.root = Process(
            ["serve"], data, port, (of_root if shards else {"SKEWLESS_HTTP_PORT": str(port)}) | settings
        )

    def start(self) -> None:
        """All of them at once."""
        for process in (*self.leaves, self.root):
            process.start()

    def shards(self) -> dict[str, Any]:
        """What the root says about its leaves."""
        found = get_json(self.root.port, "/v1/shards")
        if found is None:
            raise ConnectionError("the root does not answer")
        return found

    def metric(self, series: str) -> float:
        """One of the root's."""
        with Connection(self.root.port) as connection:
            text = connection.get("/metrics")[1].decode()
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(series)), 0.0)

    def wait_until_served(self, release_id: str) -> None:
        """Until a request would be answered from this release."""
        wait_until(
            lambda: (get_json(self.root.port, "/v2/health/ready") or {}).get("release_id") == release_id
        )

    def wait_until_held(self, shard: int, release_id: str) -> None:
        """Until the root knows that the leaf of this shard (1 is the first) is up with the release."""

        def held() -> bool:
            found = get_json(self.root.port, "/v1/shards")
            return found is not None and release_id in found["leaves"][shard - 1]["held"]

        wait_until(held)

    def wait_until_down(self, shard: int) -> None:
        """Until the root knows that the leaf of this shard is down."""
        wait_until(lambda: not self.shards()["leaves"][shard - 1]["up"])

    def close(self) -> None:
        """End all of them."""
        for process in (self.root, *self.leaves):
            process.close()
