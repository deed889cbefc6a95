import random
from collections.abc import Callable

import httpx
import pytest

from schemas.ranking import Problem, RankRequest, RankResponse
from skewless_client import RankClient, RankError

ANSWER = RankResponse(
    request_id="r-1",
    release_id="rel-1",
    snapshot_id="snap-1",
    query_tower_version="a" * 64,
    pin_tower_version="a" * 64,
    user_known=True,
    ads=[],
    stages=[],
)
PROBLEM = Problem(
    type="overloaded",
    title="Overloaded",
    status=503,
    detail="queue is full",
    hint="come back",
    request_id="r-9",
)
Handler = Callable[[httpx.Request], httpx.Response]


class Clock:
    """A clock that moves only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def client(handler: Handler, clock: Clock | None = None, budget_seconds: float = 0.5) -> RankClient:
    clock = clock or Clock()
    return RankClient(
        "http://ads",
        transport=httpx.MockTransport(handler),
        retry_budget_seconds=budget_seconds,
        clock=lambda: clock.now,
        sleep=clock.sleep,
        generator=random.Random(1),
    )


def _refusal(handler: Handler, clock: Clock | None = None) -> RankError:
    with client(handler, clock) as ads, pytest.raises(RankError) as caught:
        ads.rank(RankRequest(user_id=3))
    return caught.value


def test_the_request_is_posted_without_what_is_unset_and_the_answer_is_typed() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=ANSWER.model_dump_json())

    with client(handler) as ads:
        assert ads.rank(RankRequest(user_id=3, slots=5)) == ANSWER
    assert (seen[0].method, str(seen[0].url)) == ("POST", "http://ads/v1/rank")
    assert seen[0].content == b'{"user_id":3,"slots":5}'
    assert seen[0].headers["content-type"] == "application/json"


def test_a_problem_becomes_an_error_with_its_hint() -> None:
    problem = PROBLEM.model_copy(update={"status": 422})
    error = _refusal(lambda _: httpx.Response(422, content=problem.model_dump_json()))
    assert (error.status, error.hint, error.request_id) == (422, "come back", "r-9")
    assert "queue is full" in str(error) and "come back" in str(error)


def test_an_error_page_is_an_error_with_its_status() -> None:
    error = _refusal(lambda _: httpx.Response(500, text="<h1>oops</h1>"))
    assert error.status == 500 and "oops" in str(error)


def test_an_answer_of_another_shape_names_the_likely_cause() -> None:
    error = _refusal(lambda _: httpx.Response(200, json={"ads": []}))
    assert "different versions" in error.hint


def _failing(times: int, failure: httpx.Response | Exception) -> tuple[Handler, list[int]]:
    calls: list[int] = []

    def handler(_: httpx.Request) -> httpx.Response:
        calls.append(len(calls))
        if len(calls) > times:
            return httpx.Response(200, content=ANSWER.model_dump_json())
        if isinstance(failure, Exception):
            raise failure
        return failure

    return handler, calls


@pytest.mark.parametrize(
    "failure",
    [
        httpx.Response(503, content=PROBLEM.model_dump_json()),
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.RemoteProtocolError("closed"),
    ],
    ids=["503", "refused", "connect timeout", "closed"],
)
def test_a_busy_or_unreachable_server_is_asked_again(failure: httpx.Response | Exception) -> None:
    handler, calls = _failing(2, failure)
    clock = Clock()
    with client(handler, clock) as ads:
        assert ads.rank(RankRequest()) == ANSWER
    assert len(calls) == 3 and len(clock.pauses) == 2
    assert 0 <= clock.pauses[0] <= 0.02 and 0 <= clock.pauses[1] <= 0.04


@pytest.mark.parametrize("failure", [httpx.Response(500), httpx.Response(429), httpx.ReadTimeout("slow")])
def test_nothing_else_is_tried_again(failure: httpx.Response | Exception) -> None:
    handler, calls = _failing(1, failure)
    error = _refusal(handler)
    assert len(calls) == 1
    assert error.status == (failure.status_code if isinstance(failure, httpx.Response) else None)


def test_retries_end_with_their_budget() -> None:
    handler, calls = _failing(10**9, httpx.Response(503, content=PROBLEM.model_dump_json()))
    clock = Clock()
    error = _refusal(handler, clock)
    assert error.status == 503 and clock.now <= 0.5
    assert 3 <= len(calls) <= 60


def test_without_a_budget_there_is_one_attempt() -> None:
    handler, calls = _failing(10**9, httpx.ConnectError("refused"))
    with client(handler, budget_seconds=0.0) as ads, pytest.raises(RankError):
        ads.rank(RankRequest())
    assert len(calls) == 1
