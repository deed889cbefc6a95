"""Refuses request bodies above a size, by the header before reading and by counting while reading."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import problem

MAX_BODY_BYTES = 1 << 20


class _TooLarge(Exception):
    """The body went over the limit while it was read."""


class BodyLimit:
    """ASGI middleware: 413 for a body above `MAX_BODY_BYTES`, which is never held in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _declared_bytes(scope) > MAX_BODY_BYTES:
            await _refuse(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY_BYTES:
                raise _TooLarge
            return message

        try:
            await self._app(scope, counted, send)
        except _TooLarge:
            # The body is read before anything is sent, so no response has begun.
            await _refuse(scope, receive, send)


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and len(value) < 20:
            return int(value)
    return 0


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    response = problem(
        413,
        "body_too_large",
        f"a body has at most {MAX_BODY_BYTES} bytes",
        "A ranking request is a few hundred bytes; send one query per request.",
        headers={"Connection": "close"},
    )
    await response(scope, receive, send)
