"""A server that is told to end, on a clock that stands still until it is moved."""

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from entrypoints.signals import until_signalled
from serving.draining import Draining, DrainingServer, LastAnswers

DRAIN_SECONDS = 30.0
QUERY = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"


class Caller:
    """One connection, and what comes over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self) -> None:
        self._writer.write(QUERY)

    async def answer(self) -> bytes:
        """Status line and headers, lower case; the body, which is "yes", is read too."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        assert await self._reader.readexactly(3) == b"yes"
        return head

    async def ask(self) -> bytes:
        self.send()
        return await self.answer()

    async def closed(self) -> bool:
        return await self._reader.read() == b""

    def close(self) -> None:
        self._writer.close()


class World:
    """A server whose answers wait for `may_answer`."""

    def __init__(self, kind: type[DrainingServer] = DrainingServer) -> None:
        self.now, self.draining = 0.0, Draining()
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()
        self._callers: list[Caller] = []

        async def answer(_: Request) -> Response:
            self.asked.set()
            await self.may_answer.wait()
            return PlainTextResponse("yes")

        app = LastAnswers(Starlette(routes=[Route("/", answer)]), self.draining)
        config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=10)
        self.server = kind(config, self.draining, DRAIN_SECONDS, lambda: self.now)
        self._listener: socket.socket = config.bind_socket()
        self._port = int(self._listener.getsockname()[1])
        self.ended = asyncio.ensure_future(self.server.serve(sockets=[self._listener]))

    async def started(self) -> None:
        while not self.server.started:
            await asyncio.sleep(0.001)

    async def caller(self) -> Caller:
        """A new connection, which the server knows of."""
        known = len(self.server.server_state.connections)
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self._port))
        self._callers.append(caller)
        while len(self.server.server_state.connections) == known:
            await asyncio.sleep(0.001)
        return caller

    def signal(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    async def close(self) -> None:
        for caller in self._callers:
            caller.close()
        await asyncio.wait_for(self.ended, 10)
        self._listener.close()


def _run(
    test: Callable[[World], Coroutine[object, object, None]], world: Callable[[], World] = World
) -> None:
    async def whole() -> None:
        made = world()
        await made.started()
        await test(made)
        await made.close()

    with until_signalled():  # uvicorn raises again what it was told
        asyncio.run(whole())


def test_it_answers_on_until_the_time_is_over_and_gives_each_connection_back() -> None:
    async def test(world: World) -> None:
        kept, idle = await world.caller(), await world.caller()
        assert b"connection: close" not in await kept.ask()
        world.signal()
        assert world.draining.begun
        assert b"connection: close" in await kept.ask()
        assert await kept.closed()
        world.now = DRAIN_SECONDS - 0.001
        late = await world.caller()
        assert b"200 ok" in await late.ask()
        await asyncio.sleep(0.25)  # more than two looks at the clock
        assert not world.ended.done()
        world.now = DRAIN_SECONDS
        await asyncio.wait_for(world.ended, 10)
        assert await idle.closed()
        with pytest.raises(ConnectionRefusedError):
            await world.caller()

    _run(test)


def test_a_second_signal_ends_the_wait() -> None:
    async def test(world: World) -> None:
        world.signal()
        await asyncio.sleep(0.25)
        assert not world.ended.done()
        world.signal()
        await asyncio.wait_for(world.ended, 10)

    _run(test)


def test_an_answer_that_is_under_way_when_it_closes_arrives() -> None:
    async def test(world: World) -> None:
        world.may_answer.clear()
        caller = await world.caller()
        caller.send()
        await world.asked.wait()
        world.signal()
        world.signal()
        await asyncio.sleep(0.4)
        assert not world.ended.done()
        world.may_answer.set()
        assert b"connection: close" in await caller.answer()

    _run(test)


class _ClosesWhenTold(DrainingServer):
    """Goes to its shutdown in the very step after `close_now`."""

    def __init__(
        self, config: uvicorn.Config, draining: Draining, drain_seconds: float, clock: Callable[[], float]
    ) -> None:
        super().__init__(config, draining, drain_seconds, clock)
        self.close_now = asyncio.Event()

    async def main_loop(self) -> None:
        await self.close_now.wait()


def test_a_query_that_lies_unread_when_the_door_is_shut_is_answered() -> None:
    async def test(world: World) -> None:
        assert isinstance(world.server, _ClosesWhenTold)
        caller = await world.caller()
        caller.send()
        world.server.close_now.set()
        assert b"connection: close" in await caller.answer()

    _run(test, lambda: World(_ClosesWhenTold))


def test_a_signal_before_it_listens_ends_it_at_once() -> None:
    async def whole() -> None:
        world = World()
        world.signal()
        await world.close()

    with until_signalled():
        asyncio.run(whole())
