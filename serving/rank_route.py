"""`POST /v1/rank`, the hot path: bytes in, one call, bytes out. A bare ASGI endpoint, without FastAPI."""

import orjson
from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from schemas.ranking import RankRequest

from .answers import response_fields
from .pipeline import NoRelease, Pipeline
from .problems import invalid, problem, refused
from .ranked import Ranked
from .recorder import Recorder
from .remote_inventory import Unanswerable

PATH = "/v1/rank"
EXAMPLE = f"curl -s localhost:8080{PATH} -H 'content-type: application/json' -d '{{\"user_id\": 1}}'"
MAX_REQUEST_BYTES = 32 << 10
"""The largest valid request is below 2 KB; a larger body is only work, and its work stops other queries."""
HINT = "A ranking request is a few hundred bytes; send one query per request."
_JSON_HEADERS = {"content-type": "application/json"}


class RankEndpoint:
    """Decodes, ranks, records, encodes. The work takes about a millisecond and runs on the event loop.

    With `in_threads` it does not: a request that waits for other processes must not stop the others.
    """

    def __init__(self, pipeline: Pipeline, recorder: Recorder, *, in_threads: bool = False) -> None:
        self._pipeline = pipeline
        self._recorder = recorder
        self._in_threads = in_threads
        self._decode = TypeAdapter(RankRequest).validate_json

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application of this one path."""
        request = Request(scope, receive)
        unfit = _unfit(request)
        try:
            response = await self._answered(request) if unfit is None else unfit
        except ClientDisconnect:
            # The caller went away in the middle of its body: nobody is left to tell.
            self._recorder.telemetry.unanswered("invalid")
            return
        await response(scope, receive, send)

    async def _answered(self, request: Request) -> Response:
        body = await request.body()
        return self._said(await run_in_threadpool(self._rank, body) if self._in_threads else self._rank(body))

    def _rank(self, body: bytes) -> Ranked | Response:
        """The answer, or the problem why there is none. From any thread."""
        telemetry = self._recorder.telemetry
        try:
            return self._pipeline.rank(self._decode(body))
        except ValidationError as error:
            telemetry.unanswered("invalid")
            return invalid(error)
        except NoRelease as error:
            telemetry.unanswered("no_release")
            return refused(error, 503)
        except Unanswerable as error:
            telemetry.unanswered("no_shard")
            return refused(error, 503)
        except Exception:
            telemetry.unanswered("error")
            raise

    def _said(self, ranked: Ranked | Response) -> Response:
        """Notes an answer and encodes it: in one thread only, because the recorder is not for several."""
        if isinstance(ranked, Response):
            return ranked
        self._recorder.record(ranked)
        return Response(orjson.dumps(response_fields(ranked)), 200, _JSON_HEADERS)


def _unfit(request: Request) -> Response | None:
    """The response to a request that is refused before its body is read."""
    if request.method != "POST":
        detail, hint = f"{request.method} {PATH}", f"Ask with POST, for example: {EXAMPLE}"
        return problem(405, "method_not_allowed", detail, hint, headers={"Allow": "POST"})
    media_type = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if media_type != "application/json":
        detail = "the body's content-type is not application/json"
        return problem(415, "unsupported_media_type", detail, f"For example: {EXAMPLE}")
    return None
