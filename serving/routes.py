"""The other routes: health, status, metrics, releases, explanations, console. FastAPI, documented.

What takes longer than a request for ads is a plain `def`, and so runs in a thread: the event loop is theirs.
"""

import hmac
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from schemas.errors import RetryableError
from schemas.ids import PinId
from schemas.logs import ReleasePublished
from schemas.ranking import Boundary, RequestId

from .docs_page import docs_page
from .explain import Explanation
from .parts import ServingParts
from .problems import RETRY_AFTER_SECONDS, problem
from .status import Status

_PROBLEM: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "RFC 9457 problem details", "content": {"application/problem+json": {}}}
}
# Everything the page needs is in the page, so nothing else may be fetched.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class RollbackRequest(Boundary):
    """Who rolls back, and why: both go into the audit trail."""

    actor: Annotated[str, Field(min_length=1, max_length=100)]
    reason: Annotated[str, Field(min_length=1, max_length=300)]
    expected_current: str | None = Field(
        None, description="roll back only while this release is live: makes a repeated call harmless"
    )


class Health(BaseModel):
    """Answer of the health routes (Open Inference Protocol paths)."""

    live: bool = True
    ready: bool
    release_id: str | None = None


class Releases(BaseModel):
    """What there is, what CURRENT names, what is served, and what became of each attempt."""

    releases: list[str]
    current: str | None
    served: str | None
    swaps: list[dict[str, Any]]


def health_routes(parts: ServingParts) -> APIRouter:
    """Liveness, readiness, metrics."""
    router = APIRouter(tags=["health"])

    async def live() -> Health:
        """The process answers."""
        return Health(ready=parts.live() is not None and not parts.draining.begun)

    for path in ("/v2/health/live", "/healthz"):
        router.add_api_route(path, live, methods=["GET"], operation_id=f"live{path.count('/')}")

    @router.get("/v2/health/ready", response_model=Health)
    async def ready() -> Any:
        """A release is loaded and queries should be sent here; 503 otherwise."""
        if parts.draining.begun:
            hint = "Send queries to another server; what still comes here is answered until it closes."
            return problem(503, "draining", "the server has been told to end", hint)
        release = parts.live()
        if release is None:
            hint = "Publish a release; the server loads it within seconds and then is ready."
            headers = {"Retry-After": RETRY_AFTER_SECONDS}
            return problem(503, "no_release", "no release has been loaded yet", hint, headers=headers)
        return Health(ready=True, release_id=release.release_id)

    @router.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Prometheus exposition."""
        text, content_type = parts.metrics()
        return Response(text, media_type=content_type)

    return router


def release_routes(parts: ServingParts) -> APIRouter:
    """Releases, rollback, status, explanations."""
    router = APIRouter(prefix="/v1", tags=["operations"], responses=_PROBLEM)

    @router.get("/releases")
    def releases() -> Releases:
        """Releases on disk, the pointer, and the swap history."""
        served = parts.live()
        return Releases(
            releases=parts.releases.list(),
            current=parts.current(),
            served=None if served is None else served.release_id,
            swaps=parts.history.as_json(),
        )

    @router.post("/releases/rollback", response_model=ReleasePublished)
    def rollback(body: RollbackRequest, authorization: Annotated[str, Header()] = "") -> Any:
        """Make the live release's predecessor live again. Needs the admin token."""
        if not parts.admin_token:
            hint = (
                "Start the server with an admin token, or roll back on the host: skewless release rollback."
            )
            return problem(403, "no_admin_token", "this server was started without an admin token", hint)
        sent = authorization.encode("utf-8", "replace")
        if not hmac.compare_digest(sent, f"Bearer {parts.admin_token}".encode()):
            raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})
        expected = ... if body.expected_current is None else body.expected_current
        try:
            return parts.roll_back(body.actor, body.reason, expected)
        except OSError as error:
            raise RetryableError(f"the releases cannot be read or written: {error}") from error

    @router.get("/status")
    def status() -> Status:
        """The whole state of the server."""
        return parts.status()

    @router.get("/explain/{request_id}", response_model=Explanation, response_model_exclude_none=True)
    def explain_request(
        request_id: Annotated[RequestId, Path()], pin_id: Annotated[PinId | None, Query()] = None
    ) -> Any:
        """Why these ads: the funnel of one recent answer, and the fate of one Pin in it."""
        ranked = parts.recorder.explanations.find(request_id)
        if ranked is None:
            hint = "Only the last few thousand answers are kept, by the server that gave them."
            return problem(404, "unknown_request", f"no answer is remembered under {request_id}", hint)
        return parts.explain(ranked, pin_id)

    return router


def page_routes() -> APIRouter:
    """The console and the reference, both self-contained."""
    router = APIRouter(include_in_schema=False)
    console = files("serving").joinpath("console.html").read_text(encoding="utf-8")

    @router.get("/", response_class=HTMLResponse)
    async def console_page() -> HTMLResponse:
        return HTMLResponse(console, headers=_PAGE_HEADERS)

    @router.get("/docs", response_class=HTMLResponse)
    async def reference(request: Request) -> HTMLResponse:
        return HTMLResponse(docs_page(request.app.openapi()), headers=_PAGE_HEADERS)

    return router
