"""What a leaf holds: the current release and the one before, each as long as it is leased or asked for."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from index.object_store import StoreRefused
from schemas.errors import Refused, RetryableError
from serving.clock import Clock
from serving.inventory import Inventory
from serving.leaf_releases import ASKED_SECONDS, HeldReleases, NotHeld
from serving.leaf_watcher import Attempt, LeafWatcher
from serving.release_watcher import REFUSED_SECONDS


@dataclass
class FakeShard:
    release_id: str
    tower_version: str = "tower"
    newest_ingest_ms: int = 0
    closed: int = 0

    def __len__(self) -> int:
        return 7

    def inventory(self) -> Inventory:
        raise AssertionError("nobody searches here")

    def close(self) -> None:
        self.closed += 1


@dataclass
class World:
    """A pointer that tests move, a clock that they wind, and a loader that does as it is told."""

    current: str | None = None
    last_seen: str | None = None
    away: Exception | None = None
    now: float = 0.0
    fails: dict[str, Exception] = field(default_factory=dict)
    loaded: dict[str, FakeShard] = field(default_factory=dict)
    told: list[Attempt] = field(default_factory=list)
    most_open: int = 0
    """With the one that was being loaded."""

    def __post_init__(self) -> None:
        self.held = HeldReleases(lambda: self.now)
        clock = Clock(now_ms=lambda: 1, seconds=lambda: self.now)
        self.watcher = LeafWatcher(
            self._current, self._load, self.held, clock, self.told.append, lambda: self.last_seen
        )

    def _current(self) -> str | None:
        if self.away is not None:
            raise self.away
        return self.current

    def _load(self, release_id: str) -> FakeShard:
        if release_id in self.fails:
            raise self.fails[release_id]
        self.most_open = max(self.most_open, self.held.open + 1)
        self.loaded[release_id] = FakeShard(release_id)
        return self.loaded[release_id]

    def publish(self, *releases: str) -> None:
        for self.current in releases:
            self.watcher.check()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.held.close()


def test_the_current_and_the_previous_release_are_held_and_older_ones_freed(world: World) -> None:
    world.publish("a", "b", "c")
    assert world.held.ids() == ("c", "b")
    world.watcher.check()
    assert {name: shard.closed for name, shard in world.loaded.items()} == {"a": 1, "b": 0, "c": 0}
    assert world.held.open == 2


def test_a_release_is_in_memory_until_its_last_lease_ends(world: World) -> None:
    world.publish("a")
    with world.held.lease("a") as leased:
        world.now += ASKED_SECONDS
        world.publish("b", "c")
        world.watcher.check()
        assert (leased.release_id, world.loaded["a"].closed, world.held.open) == ("a", 0, 3)
        with pytest.raises(NotHeld, match="c, b"), world.held.lease("a"):
            pass
    world.watcher.check()
    assert (world.loaded["a"].closed, world.held.open) == (1, 2)


def test_a_third_release_stays_while_a_root_still_asks_for_it(world: World) -> None:
    world.publish("a", "b")
    with world.held.lease("a"):
        pass
    world.publish("c")
    assert world.held.ids() == ("c", "b", "a")
    world.now += ASKED_SECONDS
    world.watcher.check()
    assert world.held.ids() == ("c", "b")
    with world.held.lease("b"), world.held.lease("c"):
        pass
    world.publish("d")
    assert world.held.ids() == ("d", "c", "b")
    world.publish("e")
    assert world.held.ids() == ("e", "d", "c"), "three at most, whoever asks"


def test_a_release_that_is_asked_for_stays_however_many_newer_ones_come(world: World) -> None:
    """As when a root stays behind, because one of its other leaves refuses whatever is published."""
    world.publish("a", "b")
    for newest in ("c", "d", "e"):
        with world.held.lease("a"):
            world.publish(newest)
        world.watcher.check()
        assert world.held.ids() == (newest, chr(ord(newest) - 1), "a")
        assert world.held.open == 3
    world.now += ASKED_SECONDS
    world.watcher.check()
    assert world.held.ids() == ("e", "d")


def ask(world: World, *release_ids: str) -> None:
    for release_id in release_ids:
        with world.held.lease(release_id):
            pass


def test_while_a_third_is_asked_for_no_more_than_three_are_in_memory(world: World) -> None:
    world.publish("k")
    for newest in ("a", "b", "c", "d"):
        ask(world, "k")
        world.publish(newest)
        ask(world, "k")
        world.watcher.check()
    assert world.held.ids() == ("d", "c", "k")
    assert world.most_open == 3


def test_a_previous_release_that_a_second_root_asks_for_makes_no_room(world: World) -> None:
    world.publish("k", "a")
    ask(world, "k")
    world.publish("b")
    ask(world, "k", "a")
    world.fails["c"] = OSError("disk")
    world.publish("c")
    assert world.held.ids() == ("b", "a", "k")
    world.now += ASKED_SECONDS
    ask(world, "k")
    world.watcher.check()
    assert world.held.ids() == ("b", "k")


def test_of_two_releases_that_are_asked_for_the_later_asked_one_stays(world: World) -> None:
    world.publish("a", "b")
    for asked in ("b", "a"):
        world.now += 1
        with world.held.lease(asked):
            pass
    world.publish("c", "d")
    assert world.held.ids() == ("d", "c", "a")


def test_a_rollback_to_the_previous_release_loads_nothing(world: World) -> None:
    world.publish("a", "b", "a")
    assert world.held.ids() == ("a", "b")
    assert [attempt.release_id for attempt in world.told] == ["a", "b"]
    world.publish("c")
    world.watcher.check()
    assert world.held.ids() == ("c", "a")


def test_a_refused_release_leaves_what_is_held_and_is_not_tried_at_every_look(world: World) -> None:
    world.fails["b"] = Refused("checksum", "these bytes", "others", "copy it again")
    world.publish("a", "b")
    assert world.held.ids() == ("a",)
    assert world.watcher.check() is None
    last = world.watcher.last
    assert last is not None and last.refusal is not None
    assert (last.release_id, last.refusal.code) == ("b", "checksum")
    world.publish("c")
    assert world.held.ids() == ("c", "a"), "what was refused is nobody's predecessor"


def test_a_refused_release_that_was_mended_is_held_without_a_move_of_current(world: World) -> None:
    world.fails["b"] = Refused("bad_checksum", "these bytes", "others", "publish it again")
    world.publish("a", "b")
    for _ in range(5):
        world.now += REFUSED_SECONDS
        world.watcher.check()
    assert [attempt.release_id for attempt in world.told] == ["a", "b"], "told once"
    world.fails["b"] = Refused("missing_file", "a file", "none", "publish it again")
    world.now += REFUSED_SECONDS
    world.watcher.check()
    assert [attempt.release_id for attempt in world.told] == ["a", "b", "b"], "another refusal is news"
    del world.fails["b"]
    world.now += REFUSED_SECONDS - 1
    assert (world.watcher.check(), world.held.ids()) == (None, ("a",))
    world.now += 1
    world.watcher.check()
    assert world.held.ids() == ("b", "a")


def test_a_refused_release_is_tried_at_once_when_current_comes_back_to_it(world: World) -> None:
    world.fails["b"] = Refused("bad_checksum", "these bytes", "others", "publish it again")
    world.publish("a", "b", "a")
    del world.fails["b"]
    world.publish("b")
    assert world.held.ids() == ("b", "a")


def test_a_load_that_broke_is_tried_again_after_a_while(world: World) -> None:
    world.fails["a"] = OSError("disk")
    world.publish("a")
    del world.fails["a"]
    assert (world.watcher.check(), world.held.ids()) == (None, ())
    world.now += 5.0
    world.watcher.check()
    assert world.held.ids() == ("a",)
    assert [attempt.result for attempt in world.told] == ["refused", "loaded"]


def test_a_store_that_is_away_does_not_end_the_watch(world: World) -> None:
    world.publish("a")
    world.away = RetryableError("the store did not answer")
    world.watcher.check()
    assert (world.held.ids(), world.told[-1].release_id) == (("a",), "CURRENT")
    world.away = None
    world.publish("b")
    assert world.held.ids() == ("b", "a")


def test_an_outage_of_the_store_is_over_when_current_was_read_and_the_next_one_is_told(world: World) -> None:
    world.publish("a")
    for outages in (1, 2):
        world.away = RetryableError("the store did not answer")
        world.watcher.check()
        world.watcher.check()
        last = world.watcher.last
        assert last is not None and last.release_id == "CURRENT"
        assert [attempt.release_id for attempt in world.told] == ["a"] + ["CURRENT"] * outages
        world.away = None
        world.watcher.check()
        last = world.watcher.last
        assert last is not None and (last.release_id, last.result) == ("a", "loaded")


def test_a_refusal_outlasts_an_outage_and_ends_with_a_rollback(world: World) -> None:
    world.fails["b"] = Refused("bad_checksum", "these bytes", "others", "publish it again")
    world.publish("a", "b")
    world.away = RetryableError("the store did not answer")
    world.watcher.check()
    world.away = None
    world.watcher.check()
    last = world.watcher.last
    assert last is not None and last.release_id == "b"
    world.publish("a")
    assert world.watcher.last is None


def test_a_leaf_that_starts_while_the_store_is_away_begins_with_what_was_seen_last(world: World) -> None:
    world.away, world.last_seen = RetryableError("the store did not answer"), "a"
    world.watcher.check()
    assert world.held.ids() == ("a",)
    assert [attempt.release_id for attempt in world.told] == ["CURRENT", "a"]
    world.last_seen = "b"  # what was seen last is where to begin, never a reason to move
    world.watcher.check()
    assert world.held.ids() == ("a",)
    world.away = None
    world.publish("c")
    assert world.held.ids() == ("c", "a")


def test_a_store_that_lets_nobody_in_is_asked_again_for_the_same_release(world: World) -> None:
    world.fails["a"] = StoreRefused("store_denied", "to be let in", "ExpiredToken", "new keys")
    world.publish("a")
    del world.fails["a"]
    world.now += 5.0
    world.watcher.check()
    assert world.held.ids() == ("a",)


def test_a_release_that_is_not_held_is_refused_with_those_that_are(world: World) -> None:
    world.publish("a", "b")
    with pytest.raises(NotHeld) as refused, world.held.lease("other"):
        pass
    assert refused.value.held == ("b", "a")
