"""Refuses request bodies above a size, by the header before reading and by counting while reading."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import problem

MAX_BODY_BYTES = 1 << 20
_HINT = "GET /openapi.json has what each path takes."


class _TooLarge(Exception):
    """The body went over the limit while it was read."""


class BodyLimit:
    """ASGI middleware: 413 for a body above `max_bytes`, which is never held in memory."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES, hint: str = _HINT) -> None:
        self._app = app
        self._max_bytes, self._hint = max_bytes, hint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _declared_bytes(scope) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise _TooLarge
            return message

        try:
            await self._app(scope, counted, send)
        except _TooLarge:
            # The body is read before anything is sent, so no response has begun.
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"a body has at most {self._max_bytes} bytes"
        response = problem(413, "body_too_large", detail, self._hint, headers={"Connection": "close"})
        await response(scope, receive, send)


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and len(value) < 20:
            return int(value)
    return 0
