"""The HTTP application: the hot route, the other routes, and one way to say what went wrong."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.routing import Route

from schemas.errors import Refused, RetryableError
from schemas.ranking import Problem, RankRequest, RankResponse

from . import problems, rank_route
from .body_limit import BodyLimit
from .parts import ServingParts
from .routes import health_routes, page_routes, release_routes
from .shard_routes import shard_routes

VERSION = "0.1.0"


def create_app(parts: ServingParts) -> FastAPI:
    """The ASGI application over `parts`; its lifespan starts and closes them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        parts.start()
        yield
        parts.close()

    app = FastAPI(title="Skewless", version=VERSION, docs_url=None, redoc_url=None, lifespan=lifespan)
    answering = rank_route.RankEndpoint(
        parts.pipeline, parts.recorder, in_threads=parts.config.leaves is not None
    )
    limited = BodyLimit(answering, rank_route.MAX_REQUEST_BYTES, rank_route.HINT)
    app.router.routes.insert(0, Route(rank_route.PATH, limited))
    for router in (health_routes(parts), release_routes(parts), shard_routes(parts), page_routes()):
        app.include_router(router)
    app.add_middleware(BodyLimit)
    app.add_exception_handler(HTTPException, problems.on_http_exception)
    app.add_exception_handler(RequestValidationError, problems.on_invalid_parameters)
    app.add_exception_handler(Refused, problems.on_refused)
    app.add_exception_handler(RetryableError, problems.on_unreachable)
    app.add_exception_handler(Exception, problems.on_bug)
    _document_rank(app)
    return app


def _document_rank(app: FastAPI) -> None:
    """Put the bare route into the OpenAPI document, from the same declarations that validate it."""
    document: dict[str, Any] = app.openapi()
    _, definitions = models_json_schema(
        [(RankRequest, "validation"), (RankResponse, "serialization"), (Problem, "serialization")],
        ref_template="#/components/schemas/{model}",
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    document["paths"] = {rank_route.PATH: {"post": _rank_operation()}} | document["paths"]


def _rank_operation() -> dict[str, Any]:
    def content(model: str, media_type: str = "application/json") -> dict[str, Any]:
        return {media_type: {"schema": {"$ref": f"#/components/schemas/{model}"}}}

    errors = {413: "body above 32 KiB", 415: "not JSON", 422: "not a RankRequest"}
    errors[503] = "no release yet, or no shard answered"
    return {
        "tags": ["ranking"],
        "operationId": "rank",
        "summary": "Rank ads for a user",
        "description": "Ranked, priced ads and the versions of what scored them, under one lease.",
        "requestBody": {"required": True, "content": content("RankRequest")},
        "responses": {"200": {"description": "the answer", "content": content("RankResponse")}}
        | {
            str(status): {"description": text, "content": content("Problem", problems.MEDIA_TYPE)}
            for status, text in errors.items()
        },
        "x-example": rank_route.EXAMPLE,
    }
