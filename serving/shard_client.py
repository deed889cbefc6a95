"""Asks several leaves at once, over connections that are kept, until a deadline. One thread, no queue.

The thread that has the request does it all: it writes every question before it waits for any answer, so
what a request waits for is its slowest leaf and not their sum. Over kept connections it needs no file
descriptor that is not open already.
"""

import logging
import selectors
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

log = logging.getLogger(__name__)

_RECEIVE_BYTES = 1 << 18
_MAX_HEAD_BYTES = 16_384
_MAX_ANSWER_BYTES = 1 << 28
_IDLE_KEPT = 64
"""Connections kept to one leaf: as many as requests are answered at once, and some."""


class Failure(Enum):
    """Why a leaf gave no reply."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    BROKEN = "broken"


@dataclass(frozen=True)
class Reply:
    """One HTTP response."""

    status: int
    body: bytes


Outcome = Reply | Failure
SocketAddress = tuple[str, int]


class Endpoint:
    """One leaf's address and the connections to it that wait for the next question."""

    def __init__(self, address: SocketAddress | None = None) -> None:
        self.address = address
        """None while its name has none: then it is unreachable."""
        self.idle: deque[socket.socket] = deque(maxlen=_IDLE_KEPT)
        self._complaint = ""

    def move_to(self, address: SocketAddress) -> None:
        """Connect to this address from now on; idle connections to another one are closed."""
        if address != self.address:
            self.address = address
            self.close()

    def close(self) -> None:
        """Close what is idle."""
        with suppress(IndexError):  # none is left: other threads take from it too
            while True:
                self.idle.pop().close()

    def complain(self, error: OSError) -> None:
        """Say why this process could not even begin to connect; once, until that changes."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            log.warning("no connection to the leaf at %s can be made: %s", self.address, error)

    def keep(self, connection: socket.socket, address: SocketAddress | None) -> None:
        """Give back a connection to `address` that has nothing left to read; closed if that was left."""
        self._complaint = ""
        if len(self.idle) < _IDLE_KEPT and address == self.address:
            self.idle.append(connection)
        else:
            connection.close()


def get_bytes(path: str) -> bytes:
    """A complete GET."""
    return f"GET {path} HTTP/1.1\r\nHost: leaf\r\n\r\n".encode("ascii")


def post_bytes(path: str, body: bytes, media_type: str) -> bytes:
    """A complete POST."""
    head = f"POST {path} HTTP/1.1\r\nHost: leaf\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}"
    return head.encode("ascii") + b"\r\n\r\n" + body


def ask_all(
    asked: Sequence[tuple[Endpoint, bytes]], deadline: float, seconds: Callable[[], float]
) -> list[Outcome]:
    """Send each endpoint its request; the outcomes, in order. Returns at `deadline` at the latest.

    A socket that cannot be had (no file descriptor is free) is UNREACHABLE too, and said in the log.
    """
    # NOTE: not the default selector, which opens a file descriptor of its own for every request.
    with selectors.PollSelector() as selector:
        exchanges = [_Exchange(endpoint, request, selector) for endpoint, request in asked]
        try:
            for exchange in exchanges:
                exchange.start()
            while any(exchange.outcome is None for exchange in exchanges):
                left = deadline - seconds()
                if left <= 0:
                    break
                for key, _ in selector.select(left):
                    key.data.advance()
        finally:
            for exchange in exchanges:
                if exchange.outcome is None:
                    exchange.fail(Failure.TIMEOUT)
    return [exchange.outcome or Failure.TIMEOUT for exchange in exchanges]


class _Exchange:
    """One request and its response on one connection; a kept one that turns out dead is replaced once."""

    def __init__(self, endpoint: Endpoint, request: bytes, selector: selectors.BaseSelector) -> None:
        self.outcome: Outcome | None = None
        self._endpoint, self._request, self._selector = endpoint, request, selector
        self._connection: socket.socket | None = None
        self._address = endpoint.address
        self._reused = False
        self._unsent = memoryview(b"")
        self._received = bytearray()

    def start(self) -> None:
        """Take a kept connection, or begin to connect."""
        # Looked at before a kept one is taken: should the leaf move in between, that one is not kept again.
        self._address = self._endpoint.address
        try:
            self._connection, self._reused = self._endpoint.idle.pop(), True
        except IndexError:
            self._connect()
        if self._connection is not None:
            self._unsent = memoryview(self._request)
            self._received.clear()
            self._selector.register(self._connection, selectors.EVENT_WRITE, self)
            if self._reused:
                self.advance()

    def _connect(self) -> None:
        self._reused = False
        self._address = address = self._endpoint.address
        if address is None:
            self.fail(Failure.UNREACHABLE)
            return
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            self._connection = socket.socket(family, socket.SOCK_STREAM)
            self._connection.setblocking(False)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # In progress is the rule: whether it came to be shows at the first write.
            self._connection.connect_ex(address)
        except OSError as error:
            self._endpoint.complain(error)
            self.fail(Failure.UNREACHABLE)

    def advance(self) -> None:
        """The connection can be written to or read from."""
        connection = self._connection
        if connection is None:
            return
        try:
            if self._unsent:
                self._unsent = self._unsent[connection.send(self._unsent) :]
                if not self._unsent:
                    self._selector.modify(connection, selectors.EVENT_READ, self)
                return
            chunk = connection.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._broken()
            return
        if not chunk:
            self._broken()
            return
        self._received += chunk
        self._finish_when_whole()

    def _broken(self) -> None:
        """A kept connection may have been closed meanwhile, by a leaf that restarted: ask again, once."""
        if self._reused and not self._received:
            self._drop()
            # Others that were kept are as old: none of them is tried.
            self._endpoint.close()
            self.start()
        else:
            self.fail(Failure.BROKEN if self._received else Failure.UNREACHABLE)

    def _finish_when_whole(self) -> None:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > _MAX_HEAD_BYTES:
                self.fail(Failure.BROKEN)
            return
        head = bytes(self._received[:end]).lower()
        try:
            status = int(head[9:12])
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        except (IndexError, ValueError):
            self.fail(Failure.BROKEN)
            return
        if not head.startswith(b"http/1.1 ") or not 0 <= length <= _MAX_ANSWER_BYTES:
            self.fail(Failure.BROKEN)
        elif len(self._received) >= end + 4 + length:
            self.outcome = Reply(status, bytes(self._received[end + 4 : end + 4 + length]))
            self._give_back(
                whole=len(self._received) == end + 4 + length and b"connection: close" not in head
            )

    def _give_back(self, *, whole: bool) -> None:
        connection = self._connection
        if connection is None or not whole:
            self._drop()
            return
        self._selector.unregister(connection)
        self._connection = None
        self._endpoint.keep(connection, self._address)

    def fail(self, why: Failure) -> None:
        """No reply will come. A connection with an answer on its way cannot be used again."""
        self.outcome = why
        self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            if self._connection in self._registered():
                self._selector.unregister(self._connection)
            self._connection.close()
            self._connection = None

    def _registered(self) -> list[object]:
        return [key.fileobj for key in (self._selector.get_map() or {}).values()]
