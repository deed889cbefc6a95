"""Ask for ranked ads over HTTP."""

import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import httpx
from pydantic import ValidationError

from schemas.ranking import Problem, RankRequest, RankResponse

_RETRIED_STATUS = 503


class RankError(Exception):
    """The server answered that it will not, or gave no answer that can be read.

    `status` is the HTTP status, or None when none came; `hint` says what fixes it.
    """

    def __init__(
        self, message: str, *, status: int | None = None, hint: str = "", request_id: str | None = None
    ) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.status = status
        self.hint = hint
        self.request_id = request_id


class RankClient:
    """A pooled connection to one server. A context manager; safe to use from several threads.

    A refusal under load (503) or a connection error is tried again, with jittered pauses, as long as
    `retry_budget_seconds` lasts; nothing else is.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_seconds: float = 1.0,
        retry_budget_seconds: float = 0.5,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        generator: random.Random | None = None,
    ) -> None:
        """`timeout_seconds` holds for each attempt; the rest is for tests and special networks."""
        self._http = httpx.Client(base_url=base_url, timeout=timeout_seconds, transport=transport)
        self._budget_seconds = retry_budget_seconds
        self._clock, self._sleep = clock, sleep
        self._random = generator or random.Random()

    def rank(self, request: RankRequest) -> RankResponse:
        """`POST /v1/rank`. Raises RankError for a problem, a timeout or a server out of reach."""
        content = request.model_dump_json(exclude_none=True)
        deadline = self._clock() + self._budget_seconds
        pause_seconds = 0.02
        while True:
            answer = self._ask(content)
            if isinstance(answer, RankResponse):
                return answer
            # Full jitter, so that clients refused together do not come back together.
            pause = self._random.uniform(0, pause_seconds)
            if not _is_worth_retrying(answer) or self._clock() + pause > deadline:
                raise answer
            self._sleep(pause)
            pause_seconds *= 2

    def _ask(self, content: str) -> RankResponse | RankError:
        try:
            response = self._http.post(
                "/v1/rank", content=content, headers={"content-type": "application/json"}
            )
        except httpx.TransportError as error:
            failure = RankError(f"no answer from {self._http.base_url}: {error!r}")
            failure.__cause__ = error
            return failure
        if response.is_success:
            return _response(response)
        return _problem(response)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_worth_retrying(error: RankError) -> bool:
    """A 503, or a connection that never came about or broke; a read timeout may have cost the server."""
    if error.status is not None:
        return error.status == _RETRIED_STATUS
    return isinstance(error.__cause__, httpx.NetworkError | httpx.ConnectTimeout | httpx.RemoteProtocolError)


def _response(response: httpx.Response) -> RankResponse | RankError:
    try:
        return RankResponse.model_validate_json(response.content)
    except ValidationError as error:
        return RankError(
            f"the answer is no RankResponse: {error.errors(include_url=False)[:3]}",
            status=response.status_code,
            hint="client and server are of different versions",
        )


def _problem(response: httpx.Response) -> RankError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return RankError(f"HTTP {response.status_code}: {response.text[:200]}", status=response.status_code)
    return RankError(
        f"HTTP {response.status_code} {problem.title}: {problem.detail}",
        status=response.status_code,
        hint=problem.hint,
        request_id=problem.request_id,
    )
