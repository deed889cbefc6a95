"""A leaf's HTTP edge."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from features.shard_slices import Shard
from serving.delta_telemetry import DeltaFigures, DeltaTelemetry
from serving.leaf_app import MAX_QUESTION_BYTES, LeafParts, create_leaf_app
from serving.leaf_releases import HeldReleases
from serving.leaf_watcher import LeafWatcher
from serving.shard_telemetry import LeafTelemetry
from serving.shard_wire import SEARCH_PATH

from .fakes import NOON_MS, FakeClock
from .test_app import Caller, problem, send_half

CHUNK = b" " * (1 << 20)


FIGURES = DeltaFigures(0, 0, 100, 0, NOON_MS, caught_up_at_ms=NOON_MS - 90_000)


def nothing(_: str) -> object:
    raise AssertionError("there is no release to load")


def leaf_parts() -> LeafParts:
    """A leaf that has no release, and whose delta segment lags."""
    metrics = CollectorRegistry()
    delta = DeltaTelemetry(metrics)
    clock, telemetry = FakeClock().clock(), LeafTelemetry(metrics, delta)
    held = HeldReleases(clock.seconds)
    watcher = LeafWatcher(lambda: None, nothing, held, clock, telemetry.loaded)  # type: ignore[arg-type]
    delta.show(FIGURES)
    return LeafParts(Shard(1, 2), held, watcher, telemetry, clock, 1.0)


@pytest.fixture
def app() -> Starlette:
    return create_leaf_app(leaf_parts())


@pytest.fixture
def call(app: Starlette) -> Iterator[Caller]:
    caller = Caller(app)
    yield caller
    caller.close()


def test_a_question_that_is_too_large_is_refused_by_its_header(call: Caller) -> None:
    declared = {"content-length": str(MAX_QUESTION_BYTES + 1)}
    found = problem(call("POST", SEARCH_PATH, content=b"short", headers=declared), 413)
    assert (found.detail, found.hint) == ("a body has at most 67108864 bytes", "Ask for one thing.")


def test_a_question_without_a_length_is_refused_while_it_is_read(call: Caller) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(200):
            sent += len(CHUNK)
            yield CHUNK

    assert problem(call("POST", SEARCH_PATH, content=endless()), 413)
    assert sent == MAX_QUESTION_BYTES + len(CHUNK)


def test_a_length_that_is_no_number_is_no_bug_of_the_leaf(call: Caller) -> None:
    response: httpx.Response = call("POST", SEARCH_PATH, content=b"x", headers={"content-length": "-1"})
    assert problem(response, 422)


def test_the_lag_of_a_leaf_grows_from_scrape_to_scrape(call: Caller) -> None:
    assert "\nskewless_delta_lag_seconds 90.0\n" in call("GET", "/metrics").text


def test_a_root_that_goes_away_in_the_middle_of_its_question_is_no_bug(call: Caller, app: Starlette) -> None:
    asyncio.run(send_half(app, SEARCH_PATH))
    assert 'skewless_shard_searches_total{outcome="invalid"} 1.0' in call("GET", "/metrics").text
