import signal
import socket
from types import FrameType

import pytest
import uvicorn

from entrypoints.signals import serve_until_signalled, until_signalled


async def _app(scope: object, receive: object, send: object) -> None:
    raise AssertionError("nobody asks it")


class _SignalledEarly(uvicorn.Server):
    """Gets a signal before uvicorn's own handlers are in place."""

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        signal.raise_signal(signal.SIGTERM)
        super().run(sockets)


class _SignalledWhenItRuns(uvicorn.Server):
    async def main_loop(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        await super().main_loop()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", [_SignalledEarly, _SignalledWhenItRuns])
def test_a_server_ends_in_order_whenever_the_signal_comes(kind: type[uvicorn.Server]) -> None:
    server = kind(uvicorn.Config(_app, port=0, lifespan="off", log_config=None))
    serve_until_signalled(server, server.config.bind_socket())
    assert server.started
    assert server.should_exit


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_and_the_handler_of_before_comes_back(number: signal.Signals) -> None:
    seen: list[int] = []

    def before(one: int, _: FrameType | None) -> None:
        seen.append(one)

    handler = signal.signal(number, before)
    try:
        with until_signalled() as stop:
            assert not stop.is_set()
            signal.raise_signal(number)
            assert stop.is_set()
        assert seen == []
        signal.raise_signal(number)
        assert seen == [number]
    finally:
        signal.signal(number, handler)
