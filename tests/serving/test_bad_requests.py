"""A thousand bad requests, seeded: every answer is a problem with a hint, none is a 500."""

import asyncio
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest

from serving.app import create_app
from serving.live_release import Assembly
from serving.parts import ServingParts
from serving.server import server

from .fakes import fake_index, live, pins, version

SEED, REQUESTS = 20_261_120, 1_000
JSON = {"content-type": "application/json"}

Request = tuple[str, str, bytes, dict[str, str]]


def _json_garbage(rng: random.Random) -> bytes:
    return rng.choice(
        [
            b"",
            b"null",
            b"[]",
            b"[1,2]",
            b'"text"',
            b"12",
            b"{",
            b'{"user_id":}',
            b"{'user_id': 1}",
            b'{"user_id": NaN}',
            b'{"user_id": -1}',
            b'{"user_id": 1e400}',
            b'{"slots": Infinity}',
            b'{"slots": 0}',
            b'{"slots": 101}',
            b'{"slots": "10"}',
            b'{"slots": true}',
            b'{"slots": 1, "slots": 0}',
            b'{"user_id": 9223372036854775808}',
            b'{"occurred_at_ms": -5}',
            b'{"age": "18"}',
            b'{"history": [1, -1]}',
            b'{"history": {"a": 1}}',
            b'{"history": [[1]]}',
            b'{"request_id": ""}',
            b'{"request_id": "a b"}',
            b'{"request_id": "\\ud800"}',
            b'{"\\ud800": 1}',
            b'{"\\u0000": 1}',
            b"\xff\xfe{}",
            b'{"request_id": "\xc3\x28"}',
            b"\xef\xbb\xbf{}x",
            b"[" * 10_000,
            b'{"a":' * 10_000,
            b"[" * 10_000 + b"]" * 10_000,
            b'{"history": [' + b"1," * 60 + b"1]}",
            b'{"request_id": "' + b"x" * 100_000 + b'"}',
            b"9" * 100_000,
        ]
    )


def _random_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 400))


def _bad_body(rng: random.Random) -> Request:
    make = rng.choice([_json_garbage, _json_garbage, _random_bytes])
    return ("POST", "/v1/rank", make(rng), JSON)


def _bad_type(rng: random.Random) -> Request:
    names = [
        "text/plain",
        "application/xml",
        "",
        "application/jsonx",
        "multipart/form-data",
        "\xff",
        "a" * 5_000,
    ]
    return ("POST", "/v1/rank", b"{}", {"content-type": rng.choice(names)})


def _bad_path(rng: random.Random) -> Request:
    paths = ["/%00", "/v1/rank/", "/v1//rank", "/..%2f..%2fetc", "/v1/explain/%ff%fe", "/v1/explain/a%20b"]
    paths += [
        "/v1/explain/x?pin_id=-1",
        "/v1/explain/x?pin_id=nan",
        "/v1/explain/" + "y" * 5_000,
        "/%F0%9F%92%A9",
    ]
    return (rng.choice(["GET", "POST"]), rng.choice(paths), b"", {})


def _bad_method(rng: random.Random) -> Request:
    method = rng.choice(["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW", "POST"])
    return (method, rng.choice(["/v1/rank", "/v1/releases", "/v1/status", "/metrics", "/"]), b"{", JSON)


def _bad_rollback(rng: random.Random) -> Request:
    tokens = ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer \xe9", "Bearer " + "x" * 4_000]
    body = rng.choice([b"", b"{}", b'{"actor": 1}', b'{"actor": "a", "reason": "b"}', b"[" * 5_000])
    headers = JSON | {"authorization": rng.choice(tokens)}
    return ("POST", "/v1/releases/rollback", body, headers)


KINDS: list[Callable[[random.Random], Request]] = [
    _bad_body,
    _bad_body,
    _bad_type,
    _bad_path,
    _bad_method,
    _bad_rollback,
]


async def _answers(
    parts: ServingParts, requests: list[Request]
) -> AsyncIterator[tuple[Request, httpx.Response]]:
    transport = httpx.ASGITransport(create_app(parts), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        for request in requests:
            method, path, body, headers = request
            encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            yield request, await client.request(method, path, content=body, headers=encoded)


def test_a_thousand_bad_requests_get_a_thousand_useful_answers(
    parts: ServingParts, assembly: Assembly
) -> None:
    parts.handle.swap(live(fake_index("r1", version("tower"), pins(10)), assembly))
    rng = random.Random(SEED)
    requests = [rng.choice(KINDS)(rng) for _ in range(REQUESTS)]

    async def run() -> dict[int, int]:
        seen: dict[int, int] = {}
        async for request, response in _answers(parts, requests):
            seen[response.status_code] = seen.get(response.status_code, 0) + 1
            assert response.status_code < 500, (request, response.text)
            if response.status_code >= 400 and request[0] != "HEAD":
                assert response.headers["content-type"] == "application/problem+json", request
                assert response.json()["hint"], request
        return seen

    seen = asyncio.run(run())
    assert sum(seen.values()) == REQUESTS
    assert {401, 404, 405, 415, 422} <= set(seen)


RAW = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"BREW /v1/rank HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /v1/rank HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n{}",
    b"POST /v1/rank HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n{}",
    b"POST /v1/rank HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
    b"POST /v1/rank HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"POST /v1/rank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{}",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x00\xa5\x01\x00\x00",
    b"\x00" * 100,
    b"",
]


@pytest.mark.parametrize("payload", RAW, ids=range(len(RAW)))
def test_raw_bytes_never_give_a_500(running: int, payload: bytes) -> None:
    with socket.create_connection(("127.0.0.1", running), timeout=10) as connection:
        connection.sendall(payload)
        connection.shutdown(socket.SHUT_WR)
        said = connection.makefile("rb").read()
    assert not said.startswith(b"HTTP/1.1 5")
    # The server is still there.
    assert httpx.get(f"http://127.0.0.1:{running}/v2/health/live").status_code == 200


@pytest.fixture
def running(parts: ServingParts, assembly: Assembly) -> Iterator[int]:
    parts.handle.swap(live(fake_index("r1", version("tower"), pins(10)), assembly))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        uvicorn_server = server(parts, "127.0.0.1", 0)
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        uvicorn_server.should_exit = True
        thread.join()
