"""How a server goes: it says so, answers on until its balancer has noticed, and then closes.

Whoever sends queries learns that a server goes by asking whether it is ready, a while after the fact. A
server that closes at its signal fails the queries of that while; this one answers them.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LAST_READ_SECONDS = 0.05
_CLOSE = (b"connection", b"close")
_log = logging.getLogger(__name__)


class Draining:
    """Whether a server has been told to end. It never takes that back."""

    def __init__(self) -> None:
        self.begun = False

    def begin(self) -> None:
        """From now on the server is not ready, and each answer is the last one of its connection."""
        self.begun = True


class LastAnswers:
    """ASGI middleware: while the server drains, each answer says `Connection: close`.

    So callers connect anew, where their balancer sends them, and no kept connection is closed under a query.
    """

    def __init__(self, app: ASGIApp, draining: Draining) -> None:
        self._app, self._draining = app, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def last(message: Message) -> None:
            # Asked when the answer begins: the server may have been told to end since the question came.
            if message["type"] == "http.response.start" and self._draining.begun:
                message["headers"] = [*message.get("headers", ()), _CLOSE]
            await send(message)

        await self._app(scope, receive, last)


class DrainingServer(uvicorn.Server):
    """A uvicorn server that answers on for some seconds after its first signal.

    A second signal ends that wait; then, as after it, no connection is accepted and what is under way is
    finished. A signal that comes before it listens ends it at once: nobody was told that it is there.
    """

    def __init__(
        self, config: uvicorn.Config, draining: Draining, drain_seconds: float, clock: Callable[[], float]
    ) -> None:
        super().__init__(config)
        self._draining, self._drain_seconds, self._clock = draining, drain_seconds, clock
        self._closes_at: float | None = None
        self._told = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What uvicorn calls with each signal."""
        first = not self._draining.begun
        self._draining.begin()
        if first and self.started and self._drain_seconds > 0:
            self._closes_at = self._clock() + self._drain_seconds
            return
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """What uvicorn asks ten times a second: whether to close now."""
        if self._closes_at is not None:
            if not self._told:  # here and not in `handle_exit`: a signal may come in the middle of a log line
                self._told = True
                _log.info(
                    "not ready any more; closes in %g s, at once with a second signal", self._drain_seconds
                )
            self.should_exit |= self._clock() >= self._closes_at
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody any more, finish what has come, end the application."""
        self._draining.begin()
        for listening in self.servers:
            listening.close()
        # uvicorn closes a connection without a request at once. A query that was sent before the door was
        # shut may lie unread in such a connection: it is read first, and then it is one that is finished.
        await asyncio.sleep(_LAST_READ_SECONDS)
        await super().shutdown(sockets)
