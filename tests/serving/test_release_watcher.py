"""Swaps: only after a load that succeeded, refused ones recorded once, freshness counted from the rows."""

from collections import deque
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from index.handle import Handle
from index.object_store import StoreRefused
from schemas.errors import Refused, RetryableError
from serving.live_release import Assembly, Awaiting, LiveRelease, Served
from serving.parts import ServingParts
from serving.release_watcher import REFUSED_SECONDS, RETRY_SECONDS, ReleaseWatcher, Source
from serving.swaps import SwapHistory
from serving.telemetry import ServingTelemetry

from .fakes import HOUR_MS, NOON_MS, FakeClock, FakeIndex, fake_index, live, pins, version

TOWER = version("tower")


class World:
    """A pointer that tests move, a shelf of loads, and a watcher over both."""

    def __init__(self, assembly: Assembly) -> None:
        self.clock = FakeClock()
        self.current: str | None = None
        self.last_seen: str | None = None
        self.unreadable: Exception | None = None
        self.shelf: dict[str, FakeIndex | Exception] = {}
        self.loads: list[str] = []
        self.load_seconds = 0.0
        self.assembly = assembly
        self.metrics = CollectorRegistry()
        self.history = SwapHistory()
        retired: deque[Callable[[], None]] = deque()
        self.handle: Handle[Served] = Handle(Awaiting(), retired.append)
        self.watcher = ReleaseWatcher(
            Source(self.read, self.load, lambda: self.last_seen),
            self.handle,
            history=self.history,
            telemetry=ServingTelemetry(self.metrics),
            clock=self.clock.clock(),
            retired=retired,
        )

    def read(self) -> str | None:
        if self.unreadable is not None:
            raise self.unreadable
        return self.current

    def load(self, release_id: str) -> LiveRelease:
        self.loads.append(release_id)
        self.clock.steady += self.load_seconds
        found = self.shelf[release_id]
        if isinstance(found, Exception):
            raise found
        return live(found, self.assembly)

    def point_at(self, release_id: str) -> None:
        self.current = release_id
        self.watcher.check()

    def serving(self) -> str | None:
        with self.handle.lease() as release:
            return None if isinstance(release, Awaiting) else release.release_id


@pytest.fixture
def world(assembly: Assembly) -> World:
    made = World(assembly)
    for name in ("r1", "r2", "r3"):
        made.shelf[name] = fake_index(name, TOWER, pins(4))
    return made


REFUSAL = Refused("registry_mismatch", "this", "that", "Rebuild.")


def test_it_serves_what_current_names(world: World) -> None:
    assert world.watcher.check() is None
    world.point_at("r1")
    world.point_at("r2")
    assert world.serving() == "r2"
    world.watcher.check()
    assert world.loads == ["r1", "r2"]
    assert [
        (swap.result, swap.release_id, swap.previous_release_id) for swap in world.history.newest_first()
    ] == [
        ("served", "r2", "r1"),
        ("served", "r1", None),
    ]


def _refusals(world: World, reason: str) -> float | None:
    labels = {"result": "refused", "reason": reason}
    return world.metrics.get_sample_value("skewless_index_swaps_total", labels)


def test_a_refused_release_that_was_mended_is_served_without_a_move_of_current(world: World) -> None:
    world.point_at("r1")
    whole, world.shelf["r2"] = world.shelf["r2"], REFUSAL
    world.point_at("r2")
    for _ in range(5):
        world.clock.steady += REFUSED_SECONDS
        world.watcher.check()
        world.watcher.check()
    assert world.loads == ["r1"] + ["r2"] * 6, "once a minute, however often it looks"
    assert _refusals(world, REFUSAL.code) == 1, "an alert on new refusals hears of it once"
    assert [swap.release_id for swap in world.history.newest_first()] == ["r2", "r1"]
    world.shelf["r2"] = whole
    world.clock.steady += REFUSED_SECONDS
    world.watcher.check()
    assert world.serving() == "r2"
    assert [swap.result for swap in world.history.newest_first()] == ["served", "refused", "served"]


def test_another_refusal_of_the_same_release_is_told(world: World) -> None:
    world.shelf["r1"] = Refused("bad_checksum", "these bytes", "others", "Publish it again.")
    world.point_at("r1")
    world.shelf["r1"] = Refused("missing_file", "a file", "none", "Publish it again.")
    for _ in range(3):
        world.clock.steady += REFUSED_SECONDS
        world.watcher.check()
    assert [swap.code for swap in world.history.newest_first()] == ["missing_file", "bad_checksum"]
    assert (_refusals(world, "bad_checksum"), _refusals(world, "missing_file")) == (1, 1)


def test_a_refusal_that_took_long_is_repeated_the_more_rarely(world: World) -> None:
    world.shelf["r1"], world.load_seconds = REFUSAL, 30.0
    world.point_at("r1")
    world.clock.steady += 299.0
    world.watcher.check()
    assert world.loads == ["r1"]
    world.clock.steady += 2.0
    world.watcher.check()
    assert world.loads == ["r1", "r1"], "ten times as long as it took"


def test_a_store_that_is_away_between_two_refusals_does_not_make_the_second_news(world: World) -> None:
    world.shelf["r1"] = REFUSAL
    world.point_at("r1")
    world.shelf["r1"] = AWAY
    world.clock.steady += REFUSED_SECONDS
    world.watcher.check()
    world.shelf["r1"] = REFUSAL
    world.clock.steady += RETRY_SECONDS[0]
    world.watcher.check()
    assert [swap.code for swap in world.history.newest_first()] == ["load_failed", REFUSAL.code]


def test_a_refused_release_leaves_the_old_one_and_is_not_tried_at_every_look(world: World) -> None:
    world.shelf["r2"] = REFUSAL
    world.point_at("r1")
    world.point_at("r2")
    for _ in range(100):
        world.watcher.check()
    assert world.serving() == "r1"
    assert world.loads == ["r1", "r2"]
    refused = world.history.newest_first()[0]
    assert (refused.result, refused.code, refused.expected, refused.came, refused.fix) == (
        "refused",
        "registry_mismatch",
        "this",
        "that",
        "Rebuild.",
    )
    counted = world.metrics.get_sample_value
    assert counted("skewless_index_swaps_total", {"result": "refused", "reason": "registry_mismatch"}) == 1


def test_a_refused_release_is_tried_again_when_current_comes_back_to_it(world: World) -> None:
    world.point_at("r1")
    good, world.shelf["r2"] = world.shelf["r2"], REFUSAL
    world.point_at("r2")
    world.point_at("r1")
    world.shelf["r2"] = good
    world.point_at("r2")
    assert world.serving() == "r2"


def test_a_failure_that_may_pass_is_repeated_later_and_less_and_less_often(world: World) -> None:
    world.point_at("r1")
    good, world.shelf["r2"] = world.shelf["r2"], OSError("disk")
    world.point_at("r2")
    world.watcher.check()
    assert world.loads == ["r1", "r2"]
    world.clock.steady += RETRY_SECONDS[0]
    world.watcher.check()
    world.clock.steady += RETRY_SECONDS[0]
    world.watcher.check()
    assert world.loads == ["r1", "r2", "r2"]
    assert world.history.newest_first()[0].code == "load_failed"
    assert world.serving() == "r1"
    world.shelf["r2"] = good
    world.clock.steady += RETRY_SECONDS[1]
    world.watcher.check()
    assert world.serving() == "r2"


def test_a_failing_release_does_not_hold_up_another(world: World) -> None:
    world.shelf["r1"] = MemoryError()
    world.point_at("r1")
    world.point_at("r2")
    assert world.serving() == "r2"


def test_a_pointer_that_cannot_be_read_is_complained_about_once(world: World) -> None:
    world.point_at("r1")
    world.unreadable = OSError("no such disk")
    for _ in range(10):
        world.watcher.check()
    assert [swap.release_id for swap in world.history.newest_first()] == ["CURRENT", "r1"]
    world.unreadable = None
    world.point_at("r2")
    assert world.serving() == "r2"


def test_an_outage_whose_words_change_is_told_once_and_the_next_one_again(world: World) -> None:
    world.point_at("r1")
    for outages in (1, 2):
        for tries in range(20):
            world.unreadable = RetryableError(f"Generic S3 error: Error performing GET in {284 + tries}ms")
            world.watcher.check()
        told = [swap.release_id for swap in world.history.newest_first()]
        assert told == ["CURRENT"] * outages + ["r1"]
        assert _refusals(world, "load_failed") == outages
        world.unreadable = None
        world.watcher.check()


def test_another_reason_why_current_cannot_be_read_is_told_too(world: World) -> None:
    denied = StoreRefused("store_denied", "to be let in", "ExpiredToken", "new keys")
    for world.unreadable in (AWAY, denied, AWAY, denied):
        world.watcher.check()
    assert [swap.code for swap in world.history.newest_first()] == ["store_denied", "load_failed"]


def test_a_release_that_does_not_fit_is_never_swapped_in(world: World) -> None:
    misfit = fake_index("r2", TOWER, pins(4))
    misfit.manifest = misfit.manifest.model_copy(update={"tower_version": version("other")})
    world.shelf["r2"] = misfit
    world.point_at("r1")
    world.point_at("r2")
    assert world.serving() == "r1"
    assert world.history.newest_first()[0].code == "tower_version_mismatch"


def test_event_to_servable_counts_the_rows_newer_than_the_release_before(world: World) -> None:
    ingested = [NOON_MS - HOUR_MS, NOON_MS - 60_000, NOON_MS - 20_000, NOON_MS - 10_000]
    world.shelf["r1"] = fake_index("r1", TOWER, pins(4), newest_ms=NOON_MS - HOUR_MS)
    # A slow partition's row is older than the newest of the release before, and new all the same.
    ingested[1] = NOON_MS - 2 * HOUR_MS
    newer = pins(4, ingested_at_ms=ingested, changed_offset=[0, 1, 1, 1])
    world.shelf["r2"] = fake_index("r2", TOWER, newer, newest_ms=ingested[-1])
    world.point_at("r1")
    assert world.history.newest_first()[0].freshness is None
    world.point_at("r2")
    freshness = world.history.newest_first()[0].freshness
    assert freshness is not None
    assert (freshness.rows, freshness.p50_seconds) == (3, 20.0)
    counted = world.metrics.get_sample_value
    by_release = {"tier": "realtime", "path": "release"}
    assert counted("skewless_event_to_servable_seconds_count", by_release) == 3
    assert counted("skewless_event_to_servable_seconds_sum", by_release) == 7_230
    assert counted("skewless_event_to_servable_seconds_bucket", by_release | {"le": "15.0"}) == 1
    assert counted("skewless_event_to_servable_seconds_bucket", by_release | {"le": "60.0"}) == 2


def test_metrics_name_only_the_served_release(world: World) -> None:
    world.shelf["r2"] = fake_index("r2", version("next"), pins(6, input_mask=[1, 1, 1, 3, 3, 3]))
    world.point_at("r1")
    world.point_at("r2")
    value = world.metrics.get_sample_value
    assert value("skewless_index_embeddings", {"tier": "realtime", "version": TOWER[:12]}) is None
    assert value("skewless_index_embeddings", {"tier": "realtime", "version": version("next")[:12]}) == 6
    assert value("skewless_index_aligned_ratio", {"tier": "realtime"}) == 1
    assert value("skewless_feature_coverage_ratio", {"feature": "price"}) == 1
    assert value("skewless_feature_coverage_ratio", {"feature": "content"}) == 0.5


def test_the_old_release_is_let_go_by_the_watcher_after_its_last_lease(world: World) -> None:
    first = world.shelf["r1"]
    assert isinstance(first, FakeIndex)
    world.point_at("r1")
    with world.handle.lease():
        world.point_at("r2")
        world.watcher.check()
        assert not first.closed
    assert not first.closed
    world.watcher.check()
    assert first.closed


def test_the_thread_follows_current_and_stops(world: World, parts: ServingParts) -> None:
    world.current = "r1"
    world.watcher.start(poll_seconds=60.0)
    world.watcher.close()
    assert world.loads in ([], ["r1"])


AWAY = RetryableError("s3://bucket/CURRENT could not be reached")


def test_a_server_keeps_serving_while_the_store_is_away_and_says_so_once(world: World) -> None:
    world.point_at("r1")
    world.unreadable = AWAY
    assert world.watcher.check() is not None
    assert world.watcher.check() is None
    assert world.serving() == "r1"
    world.unreadable = None
    world.point_at("r2")
    assert world.serving() == "r2"


def test_a_server_that_starts_while_the_store_is_away_serves_what_it_served_last(world: World) -> None:
    world.unreadable, world.last_seen = AWAY, "r1"
    world.watcher.check()
    assert world.serving() == "r1"
    world.last_seen = "r2"  # what was seen last is where to begin, never a reason to move
    world.watcher.check()
    assert (world.serving(), world.loads) == ("r1", ["r1"])
    world.unreadable = None
    world.point_at("r3")
    assert world.serving() == "r3"


@pytest.mark.parametrize(
    "refusal", [StoreRefused("store_denied", "to be let in", "AccessDenied", "Fix."), AWAY]
)
def test_a_store_that_refuses_in_the_middle_of_a_load_is_asked_again(
    world: World, refusal: Exception
) -> None:
    world.point_at("r1")
    whole, world.shelf["r2"] = world.shelf["r2"], refusal
    world.point_at("r2")
    assert world.serving() == "r1"
    world.shelf["r2"] = whole
    world.clock.steady += RETRY_SECONDS[0] + 1
    world.watcher.check()
    assert world.serving() == "r2"


def test_the_tiers_that_are_told_of_are_those_of_the_release_that_is_served(
    world: World, assembly: Assembly
) -> None:
    world.point_at("r1")
    with world.handle.lease() as served:
        assert isinstance(served, LiveRelease)
        (facts,) = world.watcher.facts_of(served)

    assert (facts.name, facts.policy, facts.rows) == ("realtime", "realtime", 4)
    assert facts.versions == {TOWER: 4}
    assert facts.lag_seconds(NOON_MS + 60_000) == 60
    assert world.watcher.facts_of(live(fake_index("r9", TOWER, pins(4)), assembly)) == ()
    assert world.watcher.facts_of(None) == ()


def test_a_store_that_cannot_be_read_is_seen_in_the_metrics(world: World) -> None:
    reachable = world.metrics.get_sample_value
    world.point_at("r1")
    assert reachable("skewless_store_reachable") == 1
    world.unreadable = OSError("gone")
    world.watcher.check()
    assert reachable("skewless_store_reachable") == 0
    world.unreadable = None
    world.watcher.check()
    assert reachable("skewless_store_reachable") == 1
