"""The HTTP interface: answers, problems with hints, and nothing that makes it fail."""

import asyncio
import errno
import threading
from collections.abc import Iterator

import httpx
import orjson
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message

from schemas.ranking import MAX_HISTORY, MAX_SLOTS, Problem, RankResponse
from serving.app import create_app
from serving.body_limit import MAX_BODY_BYTES
from serving.live_release import Assembly
from serving.local_inventory import LocalInventory
from serving.parts import ServingParts
from serving.rank_route import MAX_REQUEST_BYTES

from .fakes import fake_index, live, pins, version

TOWER = version("tower")


class Caller:
    """A synchronous client of an ASGI application that turns nothing into an exception."""

    def __init__(self, app: Starlette) -> None:
        self._runner = asyncio.Runner()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://server")

    def __call__(self, method: str, path: str, **arguments: object) -> httpx.Response:
        return self._runner.run(self._client.request(method, path, **arguments))  # type: ignore[arg-type]

    def rank(self, **body: object) -> httpx.Response:
        return self("POST", "/v1/rank", json=body)

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


async def send_half(app: ASGIApp, path: str) -> list[Message]:
    """What is sent to a caller that goes away in the middle of its body."""
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    coming: list[Message] = [
        {"type": "http.request", "body": b'{"user', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return coming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


@pytest.fixture
def empty(parts: ServingParts) -> Iterator[Caller]:
    caller = Caller(create_app(parts))
    yield caller
    caller.close()


@pytest.fixture
def call(empty: Caller, parts: ServingParts, assembly: Assembly) -> Caller:
    attributes = pins(30)
    attributes["status"][7] = 2
    parts.handle.swap(live(fake_index("r1", TOWER, attributes), assembly))
    return empty


def problem(response: httpx.Response, status: int) -> Problem:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate_json(response.content)
    assert found.status == status
    assert found.hint
    assert "Traceback" not in response.text
    return found


def test_a_query_is_answered(call: Caller) -> None:
    response = call.rank(user_id=1, slots=3, request_id="abc")
    assert response.status_code == 200
    answer = RankResponse.model_validate_json(response.content)
    assert (answer.request_id, answer.release_id, len(answer.ads)) == ("abc", "r1", 3)
    assert answer.query_tower_version == answer.pin_tower_version == TOWER
    assert not answer.user_known


def test_before_the_first_release_it_asks_to_come_back(empty: Caller) -> None:
    response = empty.rank()
    assert problem(response, 503).type == "urn:skewless:problem:no-release"
    assert int(response.headers["retry-after"]) > 0
    assert problem(empty("GET", "/v2/health/ready"), 503)
    assert empty("GET", "/v2/health/live").json() == {"live": True, "ready": False, "release_id": None}
    assert empty("GET", "/v1/status").json()["live"] is None


def test_health_follows_the_release(call: Caller) -> None:
    assert call("GET", "/v2/health/ready").json() == {"live": True, "ready": True, "release_id": "r1"}
    assert call("GET", "/healthz").json()["live"] is True


def test_a_server_that_drains_is_not_ready_lives_and_answers(call: Caller, parts: ServingParts) -> None:
    parts.draining.begin()
    assert problem(call("GET", "/v2/health/ready"), 503).type == "urn:skewless:problem:draining"
    assert call("GET", "/v2/health/live").json() == {"live": True, "ready": False, "release_id": None}
    assert call.rank(user_id=1).status_code == 200


def test_a_wrong_field_is_named_with_a_hint(call: Caller) -> None:
    found = problem(call.rank(slots=0, colour="red"), 422)
    assert {error["field"] for error in found.errors or []} == {"slots", "colour"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/rank", 405),
        ("PUT", "/v1/status", 405),
        ("GET", "/nothing", 404),
        ("GET", "/v1/../etc", 404),
    ],
)
def test_what_is_not_there_is_a_problem_too(call: Caller, method: str, path: str, status: int) -> None:
    assert problem(call(method, path), status)


def test_405_says_what_is_allowed(call: Caller) -> None:
    assert call("DELETE", "/v1/rank").headers["allow"] == "POST"
    assert call("DELETE", "/v1/status").headers["allow"] == "GET"


def test_a_caller_that_goes_away_in_the_middle_of_its_body_is_no_bug(
    call: Caller, parts: ServingParts
) -> None:
    assert asyncio.run(send_half(create_app(parts), "/v1/rank")) == []
    assert 'skewless_rank_requests_total{outcome="invalid"} 1.0' in call("GET", "/metrics").text


def test_only_json_is_read(call: Caller) -> None:
    response = call("POST", "/v1/rank", content=b"user_id=1", headers={"content-type": "text/plain"})
    assert problem(response, 415).type == "urn:skewless:problem:unsupported-media-type"


def test_a_large_body_is_refused_by_its_header_and_while_it_is_read(call: Caller) -> None:
    for path, size in (("/v1/rank", MAX_REQUEST_BYTES + 1), ("/v1/releases/rollback", MAX_BODY_BYTES + 1)):
        assert problem(call("POST", path, content=b" " * size), 413)
    sent = 0

    async def endless() -> object:
        nonlocal sent
        for _ in range(1_000):
            sent += 65_536
            yield b" " * 65_536

    assert problem(call("POST", "/v1/rank", content=endless()), 413)


def test_a_ranking_request_of_64_kib_is_refused_before_it_is_looked_at(call: Caller) -> None:
    """Validating 95,000 unknown keys would keep every other query waiting for a quarter of a second."""
    body = orjson.dumps({f"{number:x}": 0 for number in range(8_000)})
    assert 64 << 10 < len(body) < 70_000
    said = problem(call("POST", "/v1/rank", content=body), 413)
    assert (said.detail, said.hint) == (
        "a body has at most 32768 bytes",
        "A ranking request is a few hundred bytes; send one query per request.",
    )


def test_the_largest_valid_ranking_request_is_far_below_the_limit(call: Caller) -> None:
    largest = {
        "user_id": 2**63 - 1,
        "request_id": "x" * 64,
        "occurred_at_ms": 4_102_444_799_999,
        "slots": MAX_SLOTS,
        "age": "65+",
        "history": [2**63 - 1 - number for number in range(MAX_HISTORY)],
    }
    body = orjson.dumps(largest, option=orjson.OPT_INDENT_2)
    assert len(body) < 2_048 < MAX_REQUEST_BYTES
    assert call("POST", "/v1/rank", content=body).status_code == 200


def test_an_explanation_shows_the_funnel_and_the_fate_of_a_pin(call: Caller) -> None:
    call.rank(request_id="why", slots=2)
    explanation = call("GET", "/v1/explain/why").json()
    assert [stage["stage"] for stage in explanation["stages"]] == [
        "query_tower",
        "retrieval",
        "l1",
        "auction",
    ]
    assert [winner["outcome"] for winner in explanation["winners"]] == ["won", "won"]
    fates = {
        pin: call("GET", f"/v1/explain/why?pin_id={pin}").json()["pin"]
        for pin in (100, 103, 107, 115, 128, 999)
    }
    assert {pin: (fate["stage"], fate["outcome"]) for pin, fate in fates.items()} == {
        100: ("auction", "won"),
        103: ("auction", "outbid"),
        107: ("retrieval", "status"),
        115: ("l1", "below_l1_cut"),
        128: ("retrieval", "not_retrieved"),
        999: ("retrieval", "not_in_index"),
    }
    assert fates[100]["figures"]["position"] == 1
    # Pin 115 is the 15th of those retrieved, because Pin 107 is paused.
    assert fates[115]["figures"]["l1_rank"] == 15
    assert fates[103]["figures"]["utility_micros"] < fates[103]["figures"]["cut_off_utility_micros"]


def test_an_explanation_that_takes_long_keeps_nobody_waiting(
    call: Caller, parts: ServingParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    call.rank(request_id="first")
    begun, go_on = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def takes_long(*_: object) -> None:
        begun.set()
        in_time.append(go_on.wait(5.0))

    monkeypatch.setattr(LocalInventory, "standing", takes_long)

    async def both() -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(create_app(parts))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            explained = asyncio.create_task(client.get("/v1/explain/first"))
            await asyncio.to_thread(begun.wait, 10.0)
            ranked = await client.post("/v1/rank", json={})
            go_on.set()
            return ranked, await explained

    ranked, explained = asyncio.run(both())
    assert (ranked.status_code, explained.status_code) == (200, 200)
    assert all(in_time)


def test_an_unknown_request_has_no_explanation(call: Caller) -> None:
    assert problem(call("GET", "/v1/explain/never"), 404).type == "urn:skewless:problem:unknown-request"


def test_a_replaced_release_is_not_asked(call: Caller, parts: ServingParts, assembly: Assembly) -> None:
    call.rank(request_id="before")
    parts.handle.swap(live(fake_index("r2", TOWER, pins(30)), assembly))
    fate = call("GET", "/v1/explain/before?pin_id=107").json()["pin"]
    assert fate["outcome"] == "release_gone"
    assert call("GET", "/v1/explain/before?pin_id=100").json()["pin"]["outcome"] == "won"


def test_metrics_count_what_happened(call: Caller) -> None:
    call.rank()
    call.rank(slots="many")
    text = call("GET", "/metrics").text
    for line in (
        'skewless_rank_requests_total{outcome="ok"} 1.0',
        'skewless_rank_requests_total{outcome="invalid"} 1.0',
        'skewless_mixed_version_responses_total{version_policy="enforce"} 0.0',
        'skewless_rank_duration_seconds_count{stage="l1"} 1.0',
        "skewless_cold_start_requests_total 1.0",
        'skewless_mixed_version_pairs_total{version_policy="enforce"} 0.0',
    ):
        assert line in text


def test_one_scrape_runs_at_a_time(
    call: Caller, parts: ServingParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        type(parts.config.telemetry),
        "exposition",
        lambda *_: (str(parts._scraping.locked()).encode(), "text/plain"),
    )
    assert call("GET", "/metrics").text == "True"
    assert not parts._scraping.locked()


def test_status_holds_what_the_console_shows(call: Caller) -> None:
    call.rank()
    status = call("GET", "/v1/status").json()
    assert status["live"]["aligned"] is True
    assert status["live"]["version_mix"] == {TOWER: 30}
    assert status["live"]["feature_coverage"] == {"price": 1.0, "content": 1.0}
    assert (status["version_policy"], status["live"]["version_policy"]) == ("enforce", "enforce")
    assert status["rollover"] is status["delta"] is None
    assert status["requests"]["total"] == 1
    assert set(status["requests"]["stages"]) == {"query_tower", "retrieval", "l1", "auction", "total"}
    assert status["embedded_broker"] is False


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_fetch_nothing_from_elsewhere(call: Caller, path: str) -> None:
    page = call("GET", path)
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_openapi_document_describes_the_hot_route(call: Caller) -> None:
    document = call("GET", "/openapi.json").json()
    operation = document["paths"]["/v1/rank"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/RankRequest")
    schemas = document["components"]["schemas"]
    assert {"RankRequest", "RankResponse", "RankedAd", "StageTrace", "Problem"} <= set(schemas)
    assert set(operation["responses"]) == {"200", "413", "415", "422", "503"}
    assert operation["responses"]["413"]["description"] == f"body above {MAX_REQUEST_BYTES >> 10} KiB"
    references = orjson.dumps(document).decode().split('"#/components/schemas/')[1:]
    assert {part.split('"')[0] for part in references} <= set(schemas)


def test_rollback_needs_the_token(call: Caller) -> None:
    body = {"actor": "me", "reason": "because"}
    assert problem(call("POST", "/v1/releases/rollback", json=body), 401)
    wrong = {"authorization": "Bearer something"}
    assert problem(call("POST", "/v1/releases/rollback", json=body, headers=wrong), 401)
    right = {"authorization": "Bearer the-admin-token"}
    refused = problem(call("POST", "/v1/releases/rollback", json=body, headers=right), 409)
    assert refused.type == "urn:skewless:problem:no-predecessor"
    # An empty name is no leave to go back from anything.
    moved = problem(
        call("POST", "/v1/releases/rollback", json=body | {"expected_current": ""}, headers=right), 409
    )
    assert moved.type == "urn:skewless:problem:current-moved"


def test_a_rollback_that_cannot_read_the_releases_says_to_try_again(
    call: Caller, parts: ServingParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "CURRENT")

    monkeypatch.setattr(parts.releases, "rollback", away)
    body, right = {"actor": "me", "reason": "because"}, {"authorization": "Bearer the-admin-token"}
    found = problem(call("POST", "/v1/releases/rollback", json=body, headers=right), 503)
    assert found.type == "urn:skewless:problem:store-unreachable"


def test_releases_are_listed(call: Caller) -> None:
    assert call("GET", "/v1/releases").json() == {
        "releases": [],
        "current": None,
        "served": "r1",
        "swaps": [],
    }
