"""HTTP/1.1 as uvicorn speaks it, with a bound on a request's headers.

uvicorn's httptools parser has none: it would collect the headers of a single endless request until the memory
is gone.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
"""Request line, headers and trailers together; uvicorn's other parser, h11, has the same bound."""
_LINE_EXTRA_BYTES = 4
"""Of a header's line, beside name and value: colon, space and line end."""
_TEXT = b"expected request line and headers of at most %d bytes\n" % MAX_HEAD_BYTES
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
) % (len(_TEXT), _TEXT)


class _HeadTooLarge(Exception):
    """Raised while the parser calls back: it ends the parsing."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """Answers 431 to a request with more than `MAX_HEAD_BYTES` of headers and closes the connection.

    It only closes it where an answer to an earlier request of the connection is still under way.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        """As uvicorn calls it."""
        super().__init__(*args, **named)
        self._head_bytes = 0
        """What the parser has handed over of the request line and the headers of the request that is read."""
        self._unparsed_bytes = 0
        """What came since its start or its last piece of body: so a header counts before it is complete, when
        the parser has not handed it over yet."""

    def data_received(self, data: bytes) -> None:
        """Bytes from the connection."""
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse()

    def send_400_response(self, msg: str) -> None:
        """The parser has given up on the request."""
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse()
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_bytes = self._unparsed_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header, or a trailer after the body."""
        self._count(len(name) + len(value) + _LINE_EXTRA_BYTES)
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A piece of body, whose size is the application's to bound."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def _count(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLarge

    def _refuse(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_REFUSAL)
        self.transport.close()
