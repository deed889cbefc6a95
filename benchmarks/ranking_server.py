"""A real server process over a directory of fixtures, and the plain client that asks it."""

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import orjson

HOST = "127.0.0.1"
START_SECONDS = 120.0


def main() -> None:
    """Serve `--data` on `--port` until told to stop."""
    # Only the server process pays for these.
    from prometheus_client import CollectorRegistry  # noqa: PLC0415

    from features.definitions import registry  # noqa: PLC0415
    from serving.clock import system_clock  # noqa: PLC0415
    from serving.parts import ServingConfig, build_parts  # noqa: PLC0415
    from serving.server import server, tune_interpreter  # noqa: PLC0415
    from serving.telemetry import ServingTelemetry  # noqa: PLC0415

    from .fixtures import users  # noqa: PLC0415

    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pins", type=int, required=True)
    parser.add_argument("--poll-seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    config = ServingConfig(
        data=arguments.data,
        registry=registry(),
        clock=system_clock(),
        telemetry=ServingTelemetry(CollectorRegistry()),
        users=users(arguments.pins, seed=1),
        poll_seconds=arguments.poll_seconds,
    )
    ready = server(build_parts(config), HOST, arguments.port)
    tune_interpreter()
    ready.run()


@contextmanager
def running_server(data: Path, pins: int, poll_seconds: float = 1.0) -> Iterator["ServerProcess"]:
    """A server process that is ready to answer; ended when the block is left."""
    with RestartableServer(data, pins, poll_seconds) as server:
        yield server.process()


class RestartableServer:
    """A server process on one port, which may be killed and started again. A context manager."""

    def __init__(self, data: Path, pins: int, poll_seconds: float) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = int(probe.getsockname()[1])
        self._command = [sys.executable, "-m", "benchmarks.ranking_server", "--data", str(data)]
        self._command += ["--port", str(self.port), "--pins", str(pins), "--poll-seconds", str(poll_seconds)]
        self._killed_at = float("-inf")
        self._process: subprocess.Popen[bytes]

    def process(self) -> "ServerProcess":
        """The one that is running now."""
        return ServerProcess(self.port, self._process.pid)

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def kill_and_restart(self) -> None:
        """SIGKILL; returns when a new process is ready."""
        self._killed_at = time.monotonic()
        self._process.kill()
        self._process.wait()
        self._start()

    def is_ready(self) -> bool:
        """Whether it says that it can answer: who asks sooner is sent away."""
        try:
            return _is_ready(self.port)
        except (OSError, IndexError):
            return False

    def was_killed_since(self, moment: float) -> bool:
        """Whether a process was killed after this moment of the monotonic clock."""
        return self._killed_at >= moment

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=sys.stderr)
        try:
            _wait_until_ready(self._process, self.port)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise


@dataclass(frozen=True)
class ServerProcess:
    """Where it listens, and its process id."""

    port: int
    pid: int

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        return self._status("VmRSS") * 1024

    def peak_bytes(self) -> int:
        """The most resident memory since the start or the last `reset_peak`."""
        return self._status("VmHWM") * 1024

    def open_files(self) -> int:
        """Open file descriptors, sockets among them."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        """Threads of the process."""
        return self._status("Threads")

    def reset_peak(self) -> None:
        """Let the peak start again at what is resident now (see proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="ascii")

    def _status(self, name: str) -> int:
        """A number of proc(5), status; of memory in kB."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise RuntimeError("the server process is gone")


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            if _is_ready(port):
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the server did not become ready")


def _is_ready(port: int) -> bool:
    with Connection(port) as connection:
        return connection.get("/v2/health/ready")[0] == 200


class Connection:
    """A keep-alive HTTP/1.1 connection with nothing to it, so that the client is not what is measured."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        return self.exchange(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())

    def rank(self, body: dict[str, object]) -> tuple[int, bytes]:
        """Status and body of `POST /v1/rank`."""
        return self.exchange(rank_bytes(body))

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request, read one response with a Content-Length."""
        self._socket.sendall(request)
        received = self._socket.recv(65_536)
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._more()
        head = received[:end].lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        while len(received) < end + 4 + length:
            received += self._more()
        return int(head[9:12]), received[end + 4 :]

    def _more(self) -> bytes:
        chunk = self._socket.recv(65_536)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        return chunk


def rank_bytes(body: dict[str, object]) -> bytes:
    """A complete ranking request."""
    content = orjson.dumps(body)
    head = f"Host: bench\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return b"POST /v1/rank HTTP/1.1\r\n" + head.encode() + b"\r\n\r\n" + content


if __name__ == "__main__":
    main()
