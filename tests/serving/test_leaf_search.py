"""What a leaf answers: with spent budgets left out, and with changes since the release laid over."""

import numpy as np
import pytest

from features.pin_state import STATUS_CODES
from features.shard_slices import Shard
from serving.delta_follower import DeltaFollower
from serving.delta_reader import DeltaPolicy
from serving.gather import Merged, merge
from serving.leaf_feed import ShardFeed, caught_up
from serving.leaf_search import LoadedShard, answer, loaded_shard
from serving.shard_wire import Question

from .fake_feed import FakeFeed
from .fakes import DIMENSION, HOUR_MS, NOON_MS, FakeClock, fake_index, pins, version

TOWER = version("tower")
SHARDS = [Shard(1, 2), Shard(2, 2)]
COUNT = 40
NOTHING = np.empty(0, np.int64)
EVERY_TURN = DeltaPolicy(refresh_seconds=0.0, catch_up_seconds=0.05, check_seconds=0.0, max_vectors=100)


def shard_of(shard: Shard) -> LoadedShard:
    """The shard's part of 40 Pins from 100 on, whose dots fall from 1."""
    attributes = pins(COUNT)
    own = shard.holds(attributes["pin_id"])
    return loaded_shard(fake_index("r1", TOWER, attributes[own], np.linspace(1, 0, COUNT)[own]), 0)


def question(width: int = 10, spent: dict[int, int] | None = None) -> Question:
    query = np.zeros(DIMENSION, np.float32)
    query[0] = 1.0
    spent = spent or {}
    return Question(
        "r1",
        query,
        0,
        NOON_MS,
        width,
        np.array(list(spent), np.int64),
        np.array(list(spent.values()), np.int64),
    )


def merged(leaves: list[LoadedShard], asked: Question) -> Merged:
    answers = [answer(leaf, shard, asked) for leaf, shard in zip(leaves, SHARDS, strict=True)]
    return merge(answers, len(SHARDS), asked.width)


def test_the_best_of_the_shards_are_the_best_there_are() -> None:
    found = merged([shard_of(shard) for shard in SHARDS], question())
    assert found.pins.pin_id.tolist() == list(range(100, 110))
    assert found.titles.to_pylist() == [f"Pin {pin}" for pin in range(100, 110)]
    assert (found.total, found.dropped) == (COUNT, {"not_retrieved": 30})


def test_pins_that_spent_their_budget_make_room_for_the_next() -> None:
    """A bid is 10,000 micros, a budget 10,000,000: one micro more than all but a bid is too much."""
    spent = {100: 9_990_001, 105: 10_000_000, 108: 9_990_000, 4_711: 1}
    found = merged([shard_of(shard) for shard in SHARDS], question(spent=spent))
    assert found.pins.pin_id.tolist() == [101, 102, 103, 104, 106, 107, 108, 109, 110, 111]
    assert found.dropped == {"budget_exhausted": 2, "not_retrieved": 28}
    assert found.total == 10 + sum(found.dropped.values())


@pytest.mark.parametrize("query", [np.ones(DIMENSION + 1), np.full(DIMENSION, np.nan)])
def test_a_query_of_another_tower_is_refused(query: np.ndarray) -> None:
    asked = question()
    with pytest.raises(ValueError, match="a query"):
        answer(
            shard_of(SHARDS[0]),
            SHARDS[0],
            Question("r1", query.astype(np.float32), 0, asked.at_ms, 10, NOTHING, NOTHING),
        )


class Leaves:
    """Two leaves that read the same topics."""

    def __init__(self) -> None:
        self.feeds = [FakeFeed(), FakeFeed()]
        self.followers = [
            DeltaFollower(
                lambda feed=feed, shard=shard: ShardFeed(feed, shard),  # type: ignore[misc]
                EVERY_TURN,
                FakeClock().clock(),
                lambda _: None,
                lambda pin_ids, seconds: None,
            )
            for feed, shard in zip(self.feeds, SHARDS, strict=True)
        ]
        self.loaded = [
            caught_up(lambda _, shard=shard: shard_of(shard), follower)("r1")  # type: ignore[misc]
            for follower, shard in zip(self.followers, SHARDS, strict=True)
        ]
        self.revision = 0

    def change(self, pin: int, dot: float, **fields: object) -> None:
        """A change of a Pin arrives at both."""
        self.revision += 1
        place = pin - 100
        row = pins(place + 1, changed_offset=self.revision, ingested_at_ms=NOON_MS, **fields)[place:]
        for feed, follower in zip(self.feeds, self.followers, strict=True):
            feed.put(row, dot, TOWER)
            follower.turn()

    def close(self) -> None:
        for follower in self.followers:
            follower.close()


def test_a_shard_that_goes_lets_no_refresh_in_before_its_rows_go(monkeypatch: pytest.MonkeyPatch) -> None:
    shard, was_closed = shard_of(SHARDS[0]), list[bool]()
    monkeypatch.setattr(shard.index, "close", lambda: was_closed.append(shard.shelf.closed))
    shard.close()
    assert was_closed == [True]


def test_changes_since_the_release_act_on_the_shard_of_their_pin_and_on_no_other() -> None:
    leaves = Leaves()
    leaves.change(103, dot=0.0)
    leaves.change(101, dot=0.97, status=STATUS_CODES["paused"])
    leaves.change(190, dot=2.0, price_micros=5, input_mask=7, occurred_at_ms=NOON_MS)
    found = merged(leaves.loaded, question())
    leaves.close()

    assert found.pins.pin_id.tolist() == [190, 100, 102, 104, 105, 106, 107, 108, 109, 110]
    assert found.pins.fresh.tolist() == [True] + [False] * 9
    assert (
        found.logged_of(np.arange(10)).tolist() == [[5, 0, 7, NOON_MS]] + [[0, 0, 3, NOON_MS - HOUR_MS]] * 9
    )
    assert (found.coverage.pins, found.coverage.fresh_pins) == (COUNT + 1, 3)
    for shard, leaf in zip(SHARDS, leaves.loaded, strict=True):
        changed = shard.holds(np.array([101, 103, 190])).sum()
        assert leaf.inventory().coverage().fresh_pins == changed
