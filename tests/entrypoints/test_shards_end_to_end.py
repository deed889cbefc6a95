"""Three leaves and a root, each a process: the answers of one process, also through swaps and kills."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from prometheus_client import CollectorRegistry

from benchmarks.fixtures import NOW_MS, Catalogue, catalogue, save_release, save_tower
from benchmarks.ranking_server import Connection
from benchmarks.shard_processes import Cluster, wait_until
from features.definitions import registry
from features.shard_slices import Shard
from index.releases import ReleaseStore
from schemas.errors import RetryableError
from schemas.events import AGE_BANDS
from schemas.logs import LoggedAd
from schemas.ranking import RankRequest
from serving.answers import response_fields
from serving.clock import system_clock
from serving.parts import ServingConfig, ServingParts, build_parts
from serving.ranking_log import read_ranking_log
from serving.shard_client import post_bytes
from serving.shard_wire import MEDIA_TYPE, SEARCH_PATH, Question, encode_question
from serving.telemetry import ServingTelemetry

PINS, SHARDS, REQUESTS = 6_000, 3, 200


class World:
    """Three releases of three tower versions, the first one live; budgets that a few answers use up."""

    def __init__(self, data: Path) -> None:
        self.data = data
        pins = catalogue(PINS, seed=3)
        poor = np.random.default_rng(4).random(PINS) < 0.5
        pins.pins["daily_budget_micros"][poor] = 2 * pins.pins["bid_micros"][poor]
        self.pins: Catalogue = pins
        self.towers = [save_tower(data, seed) for seed in (1, 2, 3)]
        self.releases = [save_release(data, tower, pins) for tower in self.towers]
        self.versions = {
            release: tower.tower_version for release, tower in zip(self.releases, self.towers, strict=True)
        }
        self.store = ReleaseStore(data / "releases")
        self.publish(0)
        # The last leaf has a disk of its own, on which CURRENT moves later: that makes a late leaf.
        self.late_data = data / "of-the-last-leaf"
        shutil.copytree(data / "releases", self.late_data / "releases")
        self.late_store = ReleaseStore(self.late_data / "releases")

    def publish(self, number: int) -> str:
        self.store.publish(self.releases[number], actor="test", reason="test")
        return self.releases[number]

    def publish_late(self, number: int) -> None:
        self.late_store.publish(self.releases[number], actor="test", reason="test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def running(world: World) -> Iterator[Cluster]:
    cluster = Cluster(
        world.data, SHARDS, SKEWLESS_LEAF_DEADLINE_SECONDS="10", SKEWLESS_LEAF_DOWN_SECONDS="60"
    )
    cluster.leaves[-1].read(world.late_data)
    cluster.start()
    try:
        cluster.wait_until_served(world.releases[0])
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def one_process(world: World, tmp_path: Path) -> Iterator[ServingParts]:
    """The same releases in this process, with a ledger of its own."""
    for name in ("towers", "releases"):
        (tmp_path / name).symlink_to(world.data / name)
    config = ServingConfig(
        data=tmp_path,
        registry=registry(),
        clock=system_clock(),
        telemetry=ServingTelemetry(CollectorRegistry()),
    )
    parts = build_parts(config)
    parts.watcher.check()
    yield parts
    parts.close()


def questions(count: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(seed)
    for number in range(count):
        yield {
            "request_id": f"q{seed}-{number}",
            "user_id": rng.randrange(1, 1_000),
            "occurred_at_ms": NOW_MS + rng.randrange(3) * 86_400_000,
            "age": rng.choice([None, *AGE_BANDS]),
            "history": [rng.randrange(1, PINS + 1) for _ in range(rng.randrange(0, 30))],
            "slots": rng.randrange(1, 40),
        }


def ask(cluster: Cluster, number: int = 0) -> dict[str, Any]:
    """The answer to one query, which has to come."""
    with Connection(cluster.root.port) as connection:
        status, body = connection.rank(
            {"request_id": f"one-{number}", "user_id": number, "slots": 20, "occurred_at_ms": NOW_MS}
        )
    assert status == 200, body
    answer: dict[str, Any] = orjson.loads(body)
    return answer


def logged_ads(data: Path) -> dict[str, list[LoggedAd]]:
    """Request → ads, out of the ranking log."""
    try:
        return {log.request_id: log.ads for log in read_ranking_log(data / "logs")}
    except RetryableError:
        return {}


def shards_of(answer: dict[str, Any]) -> set[int]:
    pins = np.array([ad["pin_id"] for ad in answer["ads"]])
    return {n for n in range(1, SHARDS + 1) if Shard(n, SHARDS).holds(pins).any()}


def answered(answer: dict[str, Any]) -> tuple[int, int]:
    return answer["coverage"]["shards_answered"], answer["coverage"]["shards"]


def test_the_answers_are_those_of_one_process_to_the_last_bit(
    running: Cluster, one_process: ServingParts
) -> None:
    """Ids, order, prices, scores, counts of every stage; while budgets run out on both sides."""
    same = ("release_id", "query_tower_version", "pin_tower_version", "version_mix", "ads")
    spent_out = 0
    with Connection(running.root.port) as connection:
        for question in questions(REQUESTS, seed=1):
            status, body = connection.rank(question)
            assert status == 200, body
            came = orjson.loads(body)
            ranked = one_process.pipeline.rank(RankRequest.model_validate_json(orjson.dumps(question)))
            expected = orjson.loads(orjson.dumps(response_fields(ranked)))
            assert {name: came[name] for name in same} == {name: expected[name] for name in same}
            for ours, theirs in zip(came["stages"], expected["stages"], strict=True):
                assert (ours["candidates_in"], ours["candidates_out"]) == (
                    theirs["candidates_in"],
                    theirs["candidates_out"],
                )
            assert came["coverage"] == {
                "shards": SHARDS,
                "shards_answered": SHARDS,
                "pins": PINS,
                "fresh_pins": 0,
            }
            spent_out = max(spent_out, expected["stages"][1]["dropped"].get("budget_exhausted", 0))
    assert spent_out > 30, "the test is to cover Pins whose budget runs out"
    assert one_process.ledger.total_micros > 0


def test_the_log_of_a_root_has_the_attributes_of_pins_that_lie_on_leaves(
    running: Cluster, world: World, one_process: ServingParts
) -> None:
    release = one_process.live()
    assert release is not None
    columns = ("pin_id", "price_micros", "daily_budget_micros", "target_ages", "input_mask", "occurred_at_ms")
    expected = {row[0]: row for row in release.index.attributes[list(columns)].tolist()}
    with Connection(running.root.port) as connection:
        assert all(connection.rank(question)[0] == 200 for question in questions(20, seed=2))
    wait_until(lambda: {f"q2-{number}" for number in range(20)} <= logged_ads(world.data).keys())

    names = [name for name in LoggedAd.model_fields if name.startswith("pin_")]
    served = [ad for request, ads in logged_ads(world.data).items() if request[:3] == "q2-" for ad in ads]
    assert len(served) > 100
    for ad in served:
        assert tuple(getattr(ad, name) for name in names) == expected[ad.pin_id]


def test_a_late_leaf_holds_up_the_swap_and_not_the_answers(running: Cluster, world: World) -> None:
    old, new, _ = world.releases
    world.publish(1)
    for shard in (1, 2):
        running.wait_until_held(shard, new)
    late = running.shards()
    before = ask(running)
    world.publish_late(1)
    running.wait_until_served(new)
    after = ask(running)

    assert late["waiting_for"] == [late["leaves"][2]["address"]]
    assert late["leaves"][0]["held"] == [new, old], "the old release stays for those that still ask for it"
    for answer, release in ((before, old), (after, new)):
        assert (answer["release_id"], answered(answer)) == (release, (3, 3))
        tower = world.versions[release]
        assert answer["query_tower_version"] == answer["pin_tower_version"] == tower
        assert list(answer["version_mix"]) == [tower]


def test_a_leaf_refuses_a_release_that_it_does_not_hold(running: Cluster, world: World) -> None:
    nothing = np.empty(0, np.int64)
    body = encode_question(
        Question("20200101T00-other", np.ones(64, np.float32), 0, NOW_MS, 10, nothing, nothing)
    )
    with Connection(running.leaves[0].port) as connection:
        status, said = connection.exchange(post_bytes(SEARCH_PATH, body, MEDIA_TYPE))

    problem = orjson.loads(said)
    assert status == 409
    assert problem["type"] == "urn:skewless:problem:release-not-held"
    assert set(problem["held"]) == set(world.releases[:2])
    assert "20200101T00-other" in problem["detail"]


def test_a_killed_leaf_is_missing_from_the_answers_until_it_is_back(running: Cluster) -> None:
    release = running.shards()["current"]
    running.leaves[1].kill()
    without = [ask(running, number) for number in range(20)]
    running.leaves[1].start()
    running.wait_until_held(2, release)
    again = ask(running)

    assert {answered(one) for one in without} == {(2, 3)}
    assert set().union(*map(shards_of, without)) == {1, 3}, "none of the dead shard's Pins"
    assert answered(again) == (3, 3)


@pytest.mark.slow
def test_a_leaf_that_restarts_into_a_swap_is_missing_until_the_swap(running: Cluster, world: World) -> None:
    current = str(running.shards()["current"])
    new = world.publish(2)
    running.wait_until_held(2, new)
    running.leaves[1].kill()
    running.wait_until_down(2)
    running.leaves[1].start()
    running.wait_until_held(2, new)
    during = ask(running)
    world.publish_late(2)
    running.wait_until_served(new)

    assert (during["release_id"], answered(during)) == (current, (2, 3))
    assert running.metric('skewless_root_shards_missing_total{reason="not_held",shard="2"}') == 1
    assert answered(ask(running)) == (3, 3)


def test_without_any_leaf_there_is_a_problem_and_no_answer(running: Cluster) -> None:
    for leaf in running.leaves:
        leaf.kill()
    with Connection(running.root.port) as connection:
        status, body = connection.rank({"user_id": 1, "slots": 3})

    problem = orjson.loads(body)
    assert status == 503
    assert problem["type"] == "urn:skewless:problem:no-shard-answered"
    assert "skewless leaf" in problem["hint"]
