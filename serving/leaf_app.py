"""A leaf's HTTP interface: internal, for roots, readiness and metrics. It listens where it is told to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from features.shard_slices import Shard
from schemas.errors import Refused

from .body_limit import BodyLimit
from .clock import Clock
from .delta_follower import DeltaFollower
from .leaf_releases import HeldReleases, NotHeld
from .leaf_search import answer
from .leaf_watcher import LeafWatcher
from .limited_http import LimitedHttpProtocol
from .problems import problem, refused
from .shard_telemetry import LeafTelemetry
from .shard_wire import MEDIA_TYPE, READY_PATH, SEARCH_PATH, decode_question, encode_answer

MAX_QUESTION_BYTES = 64 << 20


@dataclass(frozen=True)
class LeafParts:
    """A leaf without its HTTP edge. `watcher.check()` loads what CURRENT names."""

    shard: Shard
    held: HeldReleases
    watcher: LeafWatcher
    telemetry: LeafTelemetry
    clock: Clock
    poll_seconds: float
    follower: DeltaFollower | None = None
    """What keeps the shard's delta segment new; None without topics to read it from."""

    def start(self) -> None:
        """Begin to follow CURRENT and the topics."""
        if self.follower is not None:
            self.follower.start()
        self.watcher.start(self.poll_seconds)

    def close(self) -> None:
        """Stop following CURRENT and let go of every release."""
        self.watcher.close()
        if self.follower is not None:
            self.follower.close()
        self.held.close()

    def readiness(self) -> dict[str, Any]:
        """What this leaf is and has: what a root waits for before it swaps."""
        rows, current, last = self.held.rows(), self.held.current(), self.watcher.last
        refusal = None if last is None else last.refusal
        return {
            "shard": self.shard.number,
            "shards": self.shard.shards,
            "ready": bool(rows),
            "held": list(rows),
            "rows": rows,
            "newest_ingest_ms": None if current is None else current.newest_ingest_ms,
            "delta": None if self.follower is None else self.follower.status(),
            "loading": self.watcher.loading,
            "refused": None
            if last is None or refusal is None
            else {
                "release_id": last.release_id,
                "code": refusal.code,
                "expected": refusal.expected,
                "came": refusal.came,
                "fix": refusal.fix,
            },
        }


def create_leaf_app(parts: LeafParts) -> Starlette:
    """The ASGI application over `parts`; its lifespan starts and closes them."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        parts.start()
        yield
        parts.close()

    async def search(request: Request) -> Response:
        """Answers on the event loop: a search takes about a millisecond."""
        try:
            body = await request.body()
        except ClientDisconnect:
            parts.telemetry.searched("invalid", 0.0)
            return Response(status_code=400)  # which nobody is there to read
        return searched(parts, body)

    async def ready(_: Request) -> Response:
        found = parts.readiness()
        return _json(found, 200 if found["ready"] else 503)

    async def metrics(_: Request) -> Response:
        text, content_type = parts.telemetry.exposition(parts.held, parts.clock.now_ms())
        return Response(text, media_type=content_type)

    async def alive(_: Request) -> Response:
        return _json({"live": True, "ready": bool(parts.held.ids())}, 200)

    return Starlette(
        routes=[
            Route(SEARCH_PATH, search, methods=["POST"]),
            Route(READY_PATH, ready),
            Route("/metrics", metrics),
            Route("/healthz", alive),
        ],
        middleware=[Middleware(BodyLimit, max_bytes=MAX_QUESTION_BYTES, hint="Ask for one thing.")],
        lifespan=lifespan,
    )


def searched(parts: LeafParts, body: bytes) -> Response:
    """The answer to one question: 409 with the releases that it has when it does not hold that release."""
    started, outcome = parts.clock.seconds(), "error"
    try:
        question = decode_question(body)
        with parts.held.lease(question.release_id) as release:
            response = Response(
                encode_answer(answer(release, parts.shard, question)), 200, media_type=MEDIA_TYPE
            )
        outcome = "ok"
    except NotHeld as error:
        outcome = "not_held"
        response = _json(
            {
                "type": "urn:skewless:problem:release-not-held",
                "title": "Conflict",
                "status": 409,
                "detail": f"expected {error.expected}; came {error.came}",
                "hint": error.fix,
                "held": list(error.held),
            },
            409,
        )
    except Refused as error:
        outcome = "invalid"
        response = refused(error, 422)
    except ValueError as error:
        outcome = "invalid"
        response = problem(422, "invalid_question", str(error), "Root and leaf serve different towers.")
    finally:
        parts.telemetry.searched(outcome, parts.clock.seconds() - started)
    return response


def leaf_server(parts: LeafParts, host: str, port: int) -> uvicorn.Server:
    """A uvicorn server over `parts`; `.run()` blocks until the leaf is told to end."""
    config = uvicorn.Config(
        create_leaf_app(parts),
        host=host,
        port=port,
        loop="uvloop",
        http=LimitedHttpProtocol,
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_graceful_shutdown=10,
        # A root keeps its connections: closing idle ones would cost a request its retry.
        timeout_keep_alive=600,
    )
    return uvicorn.Server(config)


def _json(content: dict[str, Any], status: int) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
