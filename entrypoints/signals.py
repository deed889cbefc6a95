"""Running something until SIGTERM or SIGINT."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    import uvicorn


@contextmanager
def until_signalled(then: Callable[[], None] | None = None) -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; `then` is called with each of them, in the main thread."""
    stop = threading.Event()

    def on_signal(*_: object) -> None:
        stop.set()
        if then is not None:
            then()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve_until_signalled(server: "uvicorn.Server", listener: "socket.socket") -> None:
    """Run `server` on `listener` until a signal, whenever that comes.

    uvicorn puts its own handlers in place when its loop runs, and raises the signal again when it has shut
    down in order, for whoever had it before: here that is the end of the command and not of the process in
    mid-air. A signal that comes before uvicorn listens for them finds ours, which tells it to end at once.
    """

    def end() -> None:
        server.should_exit = True

    with until_signalled(end):
        server.run(sockets=[listener])
