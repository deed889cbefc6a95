"""A schema registry on loopback: GET of the REST protocol, with failures on demand."""

import base64
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from schemas.errors import DeadLetterReason, InvalidMessage, RetryableError
from streams.wire_format import WriterSchema

USER, PASSWORD = "reader", "planted-registry-password"


class Schemas:
    """Writers' schemas by id; counts the look-ups."""

    def __init__(self, **by_id: WriterSchema) -> None:
        self.by_id = {int(name.removeprefix("_")): one for name, one in by_id.items()}
        self.asked: list[int] = []
        self.away = False

    def schema(self, schema_id: int) -> WriterSchema:
        self.asked.append(schema_id)
        if self.away:
            raise RetryableError("away")
        if schema_id not in self.by_id:
            raise InvalidMessage(DeadLetterReason.UNKNOWN_VERSION, f"no schema {schema_id}")
        return self.by_id[schema_id]


def framed(schema_id: int, payload: bytes) -> bytes:
    """Confluent's wire format by hand: magic byte, schema id big-endian, payload."""
    return struct.pack(">bI", 0, schema_id) + payload


@dataclass
class RegistryDouble:
    """What it answers, and what it was asked."""

    url: str
    by_id: dict[int, dict[str, Any]] = field(default_factory=dict)
    by_subject: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    status: int = 200
    body: bytes = b""
    """With another status than 200, or when not empty: answered as it is."""
    with_password: bool = False
    hold: threading.Event = field(default_factory=threading.Event)
    """While cleared, requests get no answer."""
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hold.set()

    def add(self, schema_id: int, text: str, kind: str | None = None, **more: Any) -> None:
        """Register a schema; without `kind` it is Avro, as in the protocol."""
        self.by_id[schema_id] = {"schema": text} | ({"schemaType": kind} if kind else {}) | more

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        """Status and body for one GET."""
        self.asked.append(path)
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.with_password and authorization != expected:
            # Some servers repeat what they were sent.
            return 401, json.dumps({"error_code": 401, "message": f"not {authorization}"}).encode()
        if self.status != 200 or self.body:
            return self.status, self.body
        parts = urlsplit(path).path.strip("/").split("/")
        if parts[:2] == ["schemas", "ids"]:
            if int(parts[2]) >= 2**31:
                return 404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'
            found = self.by_id.get(int(parts[2]))
        else:
            found = self.by_subject.get((parts[1], int(parts[3])))
        if found is None:
            return 404, b'{"error_code": 40403, "message": "Schema not found"}'
        return 200, json.dumps(found).encode()


@contextmanager
def registry_double() -> Iterator[RegistryDouble]:
    """One on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            double.hold.wait(10)
            status, body = double.answer(self.path, self.headers.get("Authorization"))
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # the client has given up

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        double = RegistryDouble(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield double
        finally:
            double.hold.set()
            server.shutdown()
            thread.join()
