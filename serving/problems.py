"""Errors as RFC 9457 problem details, each with a hint that says what fixes it. Never a stack trace."""

from http import HTTPStatus
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from schemas.errors import Refused
from schemas.ranking import Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "2"
_ERRORS_SHOWN = 10
_TEXT_SHOWN = 200

_HINTS = {
    400: "Send a well-formed HTTP request.",
    401: "Send «Authorization: Bearer <admin token>» with the token that the server was started with.",
    404: "GET /openapi.json lists every path.",
    405: "The Allow header lists the methods of this path.",
    500: "It is ours: the server's log has the details under this time.",
}


def problem(
    status: int,
    code: str,
    detail: str,
    hint: str,
    *,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem+json response. `code` is stable and becomes the `type`."""
    body = Problem(
        type=f"urn:skewless:problem:{code.replace('_', '-')}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail[: 5 * _TEXT_SHOWN],
        hint=hint,
        errors=errors,
    )
    content = orjson.dumps(body.model_dump(exclude_none=True), option=orjson.OPT_NON_STR_KEYS)
    return Response(content, status, headers, MEDIA_TYPE)


def refused(refusal: Refused, status: int) -> Response:
    """What was expected, what came, and what fixes it."""
    headers = {"Retry-After": RETRY_AFTER_SECONDS} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    detail = f"expected {refusal.expected}; came {refusal.came}"
    return problem(status, refusal.code, detail, refusal.fix, headers=headers)


def invalid(error: ValidationError) -> Response:
    """422 with the place and the complaint of each field, but never the value that was sent."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return _invalid([dict(detail) for detail in details])


def _invalid(details: list[dict[str, Any]]) -> Response:
    errors = [
        {
            "field": _printable(".".join(str(part) for part in detail["loc"]) or "body"),
            "message": _printable(str(detail["msg"])),
        }
        for detail in details[:_ERRORS_SHOWN]
    ]
    said = "; ".join(f"{one['field']}: {one['message']}" for one in errors[:3])
    return problem(422, "invalid_request", said, "GET /openapi.json has the schema.", errors=errors)


def _printable(text: str) -> str:
    """Text that is safe in JSON: a field's name comes from the caller and may hold lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8")[:_TEXT_SHOWN]


async def on_http_exception(request: Request, error: Exception) -> Response:
    """404, 405 and what else the framework raises."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    code = HTTPStatus(status).phrase.lower().replace(" ", "_")
    hint = _HINTS.get(status, "GET /openapi.json describes the interface.")
    headers = dict(error.headers) if error.headers else None
    return problem(status, code, f"{request.method} {_printable(request.url.path)}", hint, headers=headers)


async def on_invalid_parameters(request: Request, error: Exception) -> Response:
    """Path, query and body parameters of the admin routes (FastAPI's RequestValidationError)."""
    assert isinstance(error, RequestValidationError)
    return _invalid([dict(detail) for detail in error.errors()])


async def on_refused(request: Request, error: Exception) -> Response:
    """An admin operation that was refused."""
    assert isinstance(error, Refused)
    return refused(error, HTTPStatus.CONFLICT)


async def on_unreachable(request: Request, error: Exception) -> Response:
    """An operation on releases while their store is away; ranking needs no store."""
    hint = "The live release serves on. Try again; if it lasts, look at the store and the way to it."
    headers = {"Retry-After": RETRY_AFTER_SECONDS}
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, "store_unreachable", str(error), hint, headers=headers)


async def on_bug(request: Request, error: Exception) -> Response:
    """Anything else is a bug: the log has it, the caller does not."""
    return problem(500, "internal_error", "something went wrong while answering", _HINTS[500])
