"""A request's headers have a bound, on the server and on a leaf: above it the connection is closed."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from serving.leaf_app import leaf_server
from serving.limited_http import MAX_HEAD_BYTES, LimitedHttpProtocol
from serving.parts import ServingParts
from serving.server import server

from .test_leaf_app import leaf_parts

HOST = "127.0.0.1"
MIB = 1 << 20
REQUEST = b"POST /v1/rank HTTP/1.1\r\nhost: a\r\n"
ENDLESS = {
    "one header": (REQUEST + b"x: ", b"y" * 4_096),
    "many headers": (REQUEST, b"x-y: z\r\n" * 512),
    "the request line": (b"GET /", b"y" * 4_096),
    "trailers": (
        REQUEST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
        b"x-y: z\r\n" * 512,
    ),
    "one trailer": (REQUEST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: ", b"y" * 4_096),
    "what follows a chunk's size": (REQUEST + b"transfer-encoding: chunked\r\n\r\n2;", b"y" * 4_096),
}


@pytest.fixture(params=["server", "leaf"])
def port(request: pytest.FixtureRequest, parts: ServingParts) -> Iterator[int]:
    found = server(parts, HOST, 0) if request.param == "server" else leaf_server(leaf_parts(), HOST, 0)
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=found.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        found.should_exit = True
        thread.join()


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_endless_head_ends_the_connection(port: int, kind: str) -> None:
    begin, more = ENDLESS[kind]
    closed = False
    with socket.create_connection((HOST, port), timeout=10) as connection:
        try:
            connection.sendall(begin)
            for _ in range(MIB // len(more)):
                connection.sendall(more)
            while connection.recv(65_536):
                pass
            closed = True
        except (ConnectionResetError, BrokenPipeError):
            closed = True
    assert closed
    assert httpx.get(f"http://{HOST}:{port}/metrics").status_code == 200


def test_a_large_head_and_a_larger_body_go_on(port: int) -> None:
    large = {"x": "y" * (MAX_HEAD_BYTES - 1_000)}
    with httpx.Client(base_url=f"http://{HOST}:{port}") as client:
        for _ in range(3):
            assert client.get("/metrics", headers=large).status_code == 200
        said = client.post("/v1/shard/search", content=b"z" * (2 * MAX_HEAD_BYTES), headers=large)
        assert said.status_code in (404, 422)


def test_many_requests_of_one_connection_do_not_add_up(port: int) -> None:
    with httpx.Client(base_url=f"http://{HOST}:{port}") as client:
        for _ in range(30):
            assert client.get("/healthz", headers={"x": "y" * 4_096}).status_code < 500


class Transport(asyncio.Transport):
    """Remembers what was written, and that it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.mark.parametrize("kind", ["one header", "many headers", "the request line"])
def test_the_caller_is_told_431_and_no_request_begins(kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("the request was not complete")

    loop, transport = asyncio.new_event_loop(), Transport()
    config = uvicorn.Config(app, lifespan="off", log_config=None, http=LimitedHttpProtocol)
    protocol = LimitedHttpProtocol(config, ServerState(), {}, loop)
    protocol.connection_made(transport)
    begin, more = ENDLESS[kind]
    protocol.data_received(begin)
    received = 0
    while not transport.closed and received < MIB:
        assert transport.written == b""
        protocol.data_received(more)
        received += len(more)
    loop.close()
    assert received <= MAX_HEAD_BYTES + len(more)
    assert transport.written.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert transport.written.count(b"HTTP/1.1") == 1
