"""Two servers, a balancer that asks them whether they are ready, and callers that never try twice."""

import http.client
import json
import multiprocessing
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.shard_processes import free_port, wait_until

HOST = "127.0.0.1"
LOOK_SECONDS = 0.02
_FORKS = multiprocessing.get_context("forkserver")
# Each server is a process of its own; what it imports is imported once, which takes seconds. pyarrow imports
# pandas by itself where there is one; what there is not is passed over.
_PRELOADED = ["entrypoints.cli_processes", "entrypoints.wiring", "serving.server", __name__]
_PRELOADED += ["uvloop", "httptools", "pyarrow.compute", "pandas"]


def serve_here(settings: dict[str, str]) -> None:
    """`skewless serve` in this process, with these settings and no other."""
    from entrypoints.cli_processes import serve  # noqa: PLC0415 - the parent needs none of it

    for name in [name for name in os.environ if name.startswith("SKEWLESS_")]:
        del os.environ[name]
    os.environ.update(settings)
    serve()


class RollingServer:
    """`skewless serve` on one port, which is ended in order and started again."""

    def __init__(self, data: Path, drain_seconds: float) -> None:
        self.port = free_port()
        self._settings = {
            "SKEWLESS_DATA_DIR": str(data),
            "SKEWLESS_HTTP_PORT": str(self.port),
            "SKEWLESS_DRAIN_SECONDS": str(drain_seconds),
        }
        self.start()

    def start(self) -> None:
        """Start it; it is ready a while later."""
        _FORKS.set_forkserver_preload(_PRELOADED)
        self._process = _FORKS.Process(target=serve_here, args=(self._settings,))
        self._process.start()

    def tell(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def end(self) -> float:
        """SIGTERM; seconds until it had ended, with 0."""
        began = time.monotonic()
        self.tell()
        self._process.join(30)
        assert self._process.exitcode == 0
        return time.monotonic() - began

    def close(self) -> None:
        """Gone, in whatever state it is."""
        self._process.kill()
        self._process.join()
        self._process.close()


class Balancer:
    """Sends each query to the next of the servers that said at the last look that they are ready."""

    def __init__(self, ports: list[int]) -> None:
        self.ready: list[int] = []
        self._ports, self._turn = ports, count()

    def look(self) -> bool:
        """Ask all of them; whether one is ready."""
        self.ready = [port for port in self._ports if _is_ready(port)]
        return bool(self.ready)

    def choose(self) -> int:
        """Where the next query goes. Raises ConnectionError when nobody is ready."""
        ready = self.ready
        if not ready:
            raise ConnectionError("no server is ready")
        return ready[next(self._turn) % len(ready)]


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Traffic:
    """Threads that ask over kept connections, one query after the other. What fails is not asked again."""

    def __init__(self, balancer: Balancer, callers: int) -> None:
        self.failures: list[str] = []
        self.answers: list[dict[str, Any]] = []
        self._balancer, self._stop = balancer, threading.Event()
        self._threads = [threading.Thread(target=self._look)]
        self._threads += [threading.Thread(target=self._ask, args=(number,)) for number in range(callers)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Queries come while the block runs."""
        wait_until(self._balancer.look)
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def goes_on(self, answers: int) -> None:
        """Wait for so many more answers."""
        wanted = len(self.answers) + answers
        wait_until(lambda: len(self.answers) >= wanted)

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._balancer.look()

    def _ask(self, caller: int) -> None:
        kept: dict[int, http.client.HTTPConnection] = {}
        for number in count():
            if self._stop.wait(0.005):
                break
            try:
                port = self._balancer.choose()
                connection = kept.setdefault(port, http.client.HTTPConnection(HOST, port, timeout=10))
                _leave_if_closed(connection)
                self.answers.append(_asked(connection, f"{caller}-{number}"))
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(f"{caller}-{number}: {error!r}")
                connection.close()
        for connection in kept.values():
            connection.close()


def _leave_if_closed(connection: http.client.HTTPConnection) -> None:
    """As every pool does: a kept connection that the server has closed is not used for another query.

    One that is closed connects anew by itself.
    """
    kept = connection.sock
    if kept is not None and select.select([kept], [], [], 0)[0]:
        connection.close()


def _asked(connection: http.client.HTTPConnection, request_id: str) -> dict[str, Any]:
    body = json.dumps({"user_id": 1, "slots": 5, "request_id": request_id})
    connection.request("POST", "/v1/rank", body, {"content-type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    assert response.status == 200, content
    answer: dict[str, Any] = json.loads(content)
    assert answer["request_id"] == request_id
    return answer


def until(holds: Callable[[], bool]) -> None:
    """Poll; fails loudly when it does not come true."""
    wait_until(holds, 30)
