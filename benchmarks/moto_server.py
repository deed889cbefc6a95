"""moto's S3 server in a process of its own, with one empty bucket."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from index.object_store import S3Location

BUCKET = "skewless"
_START_SECONDS = 30.0


@contextmanager
def moto_server(environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start it on a free port; yields its address.

    NOTE: moto looks at a condition and writes in two steps: it speaks the protocol of a conditional put, and
    is no judge of races.
    """
    port = _free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(command, stdout=quiet, stderr=quiet, env={**os.environ, **(environment or {})})
    try:
        _wait_for(port, child)
        address = f"http://127.0.0.1:{port}"
        put = urllib.request.Request(f"{address}/{BUCKET}", data=b"", method="PUT")
        # With authentication switched on it may refuse; such a test brings its own bucket.
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(put):
            pass
        yield address
    finally:
        child.terminate()
        child.wait()


def location(address: str, prefix: str = "") -> S3Location:
    """The bucket of a server of this kind."""
    return S3Location(BUCKET, prefix, address, "us-east-1", "test", "test", allow_http=True)


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def _wait_for(port: int, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            threading.Event().wait(0.05)
    raise RuntimeError(f"moto_server did not start (exit status {child.poll()})")
