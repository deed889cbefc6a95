"""A leaf's HTTP edge."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from prometheus_client import CollectorRegistry

from features.shard_slices import Shard
from serving.leaf_app import MAX_QUESTION_BYTES, LeafParts, create_leaf_app
from serving.leaf_releases import HeldReleases, LeafWatcher
from serving.shard_telemetry import LeafTelemetry
from serving.shard_wire import SEARCH_PATH

from .fakes import FakeClock
from .test_app import Caller, problem

CHUNK = b" " * (1 << 20)


def nothing(_: str) -> object:
    raise AssertionError("there is no release to load")


@pytest.fixture
def call() -> Iterator[Caller]:
    clock, telemetry = FakeClock().clock(), LeafTelemetry(CollectorRegistry())
    held = HeldReleases(clock.seconds)
    watcher = LeafWatcher(lambda: None, nothing, held, clock, telemetry.loaded)  # type: ignore[arg-type]
    caller = Caller(create_leaf_app(LeafParts(Shard(1, 2), held, watcher, telemetry, clock, 1.0)))
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
