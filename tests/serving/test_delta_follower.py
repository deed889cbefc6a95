"""What reaches a ranking request between two releases, and what happens to it when releases change."""

import weakref
from dataclasses import replace

import numpy as np
import pytest

from features.pin_state import STATUS_CODES
from index.delta_fold import NO_VERSION, DeltaFold
from schemas.errors import Refused, RetryableError
from schemas.manifests import Offsets
from schemas.ranking import RankRequest
from serving.answers import log_of, response_of
from serving.delta_follower import DeltaFollower
from serving.delta_reader import DeltaPolicy
from serving.delta_telemetry import DeltaFigures
from serving.explain import explain
from serving.live_release import Assembly, LiveRelease
from serving.parts import ServingParts
from serving.ranked import Ranked

from .fake_feed import FakeFeed
from .fakes import NOON_MS, FakeClock, Records, fake_index, live, pins, version

TOWER, OTHER = version("tower"), version("other tower")
QUERY = np.array([1, 0, 0, 0], np.float32)
EVERY_TURN = DeltaPolicy(
    refresh_seconds=0.0, catch_up_seconds=0.05, check_seconds=0.0, max_vectors=100, rest=0.0
)


class Room:
    """A server whose delta segment is turned by hand."""

    def __init__(
        self, parts: ServingParts, assembly: Assembly, clock: FakeClock, policy: DeltaPolicy = EVERY_TURN
    ) -> None:
        self.parts, self.assembly, self.feed = parts, assembly, FakeFeed()
        self.shown: list[DeltaFigures] = []
        self.servable: list[tuple[list[int], list[float]]] = []
        self.follower = DeltaFollower(
            lambda: self.feed,
            policy,
            clock.clock(),
            self.shown.append,
            lambda pin_ids, seconds: self.servable.append((pin_ids.tolist(), seconds.tolist())),
        )
        # A broker that is away is waited for; here nothing else would happen meanwhile.
        self.follower._closing.set()
        self.revision = 0

    def serve(
        self,
        release_id: str,
        offsets: Offsets,
        attributes: Records,
        *,
        tower: str = TOWER,
        dots: list[float] | None = None,
    ) -> LiveRelease:
        """Load a release whose snapshot covers `offsets`, catch it up, swap it in."""
        index = fake_index(release_id, tower, attributes, dots)
        index.manifest = index.manifest.model_copy(
            update={"offsets": offsets, "newest_ingest_ms": NOON_MS - 1}
        )
        release = live(index, self.assembly)
        self.caught_up = self.follower.prepare(release)
        self.parts.handle.swap(release)
        self.parts.watcher.check()
        return release

    def change(self, pin: int, dot: float = 0.5, tower: str = TOWER, **fields: object) -> None:
        """A change of Pin 100 + `pin`, embedded by `tower` (or a state record alone), arrives and is read."""
        self.revision += 1
        row = pins(pin + 1, changed_offset=self.revision, ingested_at_ms=NOON_MS + self.revision, **fields)[
            pin:
        ]
        self.feed.put(row, dot, tower)
        self.follower.turn()

    def rank(self, slots: int = 20) -> Ranked:
        return self.parts.pipeline.rank(RankRequest(slots=slots))

    def shown_pins(self) -> set[int]:
        return {ad.pin_id for ad in self.rank().ads}

    def status(self, name: str) -> object:
        return self.follower.status()[name]


@pytest.fixture
def room(parts: ServingParts, assembly: Assembly, clock: FakeClock) -> Room:
    return Room(parts, assembly, clock)


def test_before_any_release_a_turn_does_nothing(room: Room) -> None:
    room.follower.turn()
    assert room.follower.status()["release_id"] is None


@pytest.mark.parametrize("tower", [TOWER, OTHER, NO_VERSION])
def test_a_change_of_attributes_acts_whatever_row_brings_it(room: Room, tower: str) -> None:
    """Invariant 7: attributes do not wait for embeddings."""
    # A batch tier's offsets are of the states, so those are read too.
    room.serve("r1", {"pin.features.v1": {0: 0}}, pins(3))
    before = {ad.pin_id: ad.bid_micros for ad in room.rank().ads}
    room.change(0, tower=tower, bid_micros=44_000)
    room.change(1, tower=tower, status=STATUS_CODES["paused"])
    room.change(2, tower=tower, daily_budget_micros=9_999)
    assert before == {100: 10_000, 101: 10_000, 102: 10_000}
    ranked = room.rank()
    assert {ad.pin_id: (ad.bid_micros, ad.fresh) for ad in ranked.ads} == {100: (44_000, True)}
    assert ranked.stages[1].dropped == {"status": 1, "budget_exhausted": 1}
    assert log_of(ranked).ads[0].fresh
    assert response_of(ranked).coverage is not None


def test_a_new_pin_is_servable_before_the_next_release(room: Room) -> None:
    """Pain 10: a new item is found without a full load."""
    room.serve("r1", room.feed.ends(), pins(2))
    room.change(7, dot=0.75)
    assert room.shown_pins() == {100, 101, 107}
    assert room.servable == [([107], [0.0])]
    assert (room.status("overlay"), room.status("new")) == (1, 1)


def test_what_comes_after_newer_rows_of_another_partition_becomes_servable_too(
    room: Room, clock: FakeClock
) -> None:
    room.serve("r1", room.feed.ends(), pins(2))
    room.feed.put(pins(8, changed_offset=1, ingested_at_ms=NOON_MS + 5_000)[7:], 0.5, TOWER)
    room.follower.turn()
    clock.now += 20_000
    room.feed.put(pins(7, changed_offset=1, ingested_at_ms=NOON_MS + 1_000)[6:], 0.5, TOWER)
    room.follower.turn()
    room.change(0)
    assert room.servable == [([107], [0.0]), ([106], [19.0]), ([100], [19.999])]


def test_what_lies_over_the_first_release_was_not_waited_for(room: Room, clock: FakeClock) -> None:
    offsets = room.feed.ends()
    room.feed.put(pins(8, changed_offset=1, ingested_at_ms=NOON_MS)[7:], 0.5, TOWER)
    clock.now += 3_000_000
    room.serve("r1", offsets, pins(2))
    assert room.shown_pins() == {100, 101, 107}
    assert room.servable == []
    # A rollback shows again what was shown before.
    room.serve("r2", room.feed.ends(), pins(8, changed_offset=1)[[0, 1, 7]])
    room.serve("r1", offsets, pins(2))
    assert room.servable == []
    room.change(5)
    assert [pins_shown for pins_shown, _ in room.servable] == [[105]]


@pytest.mark.parametrize("status", ["paused", "deleted"])
def test_a_pin_that_goes_is_never_shown_again(room: Room, status: str) -> None:
    room.serve("r1", room.feed.ends(), pins(3))
    room.change(1, status=STATUS_CODES[status])
    assert room.shown_pins() == {100, 102}


def test_a_row_of_another_version_is_not_scored(room: Room) -> None:
    room.serve("r1", room.feed.ends(), pins(2))
    room.change(0, dot=30.0, tower=OTHER)
    room.change(5, dot=30.0, tower=OTHER)
    ranked = room.rank()
    assert max(ranked.retrieved_dots) == 1.0
    assert log_of(ranked).mixed_pairs() == 0
    assert log_of(ranked).version_mix == {TOWER: 2}
    assert room.status("waiting") == 1


def test_a_loaded_release_is_caught_up_before_it_is_served(room: Room) -> None:
    offsets = room.feed.ends()
    room.revision = 1
    room.feed.put(pins(3, changed_offset=1, status=STATUS_CODES["deleted"])[2:], 0.5, TOWER)
    room.serve("r1", offsets, pins(3))
    assert room.caught_up
    assert room.shown_pins() == {100, 101}


def test_a_broker_that_is_away_delays_a_release_and_does_not_stop_it(room: Room, clock: FakeClock) -> None:
    room.feed.down = True
    room.serve("r1", room.feed.ends(), pins(2))
    assert not room.caught_up
    assert room.shown_pins() == {100, 101}
    assert (room.status("swapped_behind"), room.status("error")) == (1, "nobody answers")
    clock.now += 60_000
    room.follower.turn()
    assert room.status("lag_seconds") == 60.0
    assert room.shown[-1].caught_up_at_ms == NOON_MS
    room.feed.down = False
    room.change(1, status=STATUS_CODES["paused"])
    assert room.shown_pins() == {100}
    assert (room.status("lag_seconds"), room.status("error")) == (0.0, "")


def test_while_the_broker_is_away_the_last_segment_is_served(room: Room, clock: FakeClock) -> None:
    room.serve("r1", room.feed.ends(), pins(2))
    room.change(5)
    room.feed.down = True
    clock.now += 9_000
    room.change(6)
    assert room.shown_pins() == {100, 101, 105}
    assert room.status("lag_seconds") == 9.0
    room.feed.down = False
    room.follower.turn()
    assert room.shown_pins() == {100, 101, 105, 106}


def test_the_next_release_takes_its_rows_over_and_the_rest_goes_on(room: Room) -> None:
    room.serve("r1", room.feed.ends(), pins(2))
    room.change(5)
    offsets = room.feed.ends()
    room.change(6)
    taken_over = pins(6, changed_offset=1)[[0, 1, 5]]
    taken_over["changed_offset"][:2] = 0
    room.serve("r2", offsets, taken_over)
    assert room.shown_pins() == {100, 101, 105, 106}
    assert room.status("overlay") == 1
    assert room.status("rewinds") == 0


def test_a_rollback_has_its_rows_at_once(room: Room) -> None:
    first = room.feed.ends()
    room.serve("r1", first, pins(2))
    room.change(5)
    room.serve("r2", room.feed.ends(), pins(6, changed_offset=1)[[0, 1, 5]])
    room.change(0, status=STATUS_CODES["paused"])
    room.serve("r1", first, pins(2))
    assert room.shown_pins() == {101, 105}
    assert len(room.feed.assigned) == 1


def test_a_rollback_further_back_rewinds(room: Room) -> None:
    first = room.feed.ends()
    room.serve("r1", first, pins(2))
    room.change(5)
    state = pins(6, changed_offset=1)[[0, 1, 5]]
    room.serve("r2", room.feed.ends(), state)
    room.change(6)
    room.serve("r3", room.feed.ends(), pins(7, changed_offset=2))
    room.serve("r1", first, pins(2))
    assert room.shown_pins() == {100, 101, 105, 106}
    assert room.status("rewinds") == 1
    assert room.feed.assigned[-1] == {"pin.embedded.v1": {0: 0, 1: 0}}


def test_another_tower_version_starts_from_its_own_offsets(room: Room) -> None:
    room.serve("r1", room.feed.ends(), pins(2))
    offsets = room.feed.ends()
    # The worker embeds with both while the candidate is live.
    room.change(5, dot=0.5, tower=TOWER)
    room.feed.put(pins(6, changed_offset=1)[5:], 0.25, OTHER)
    room.serve("r2", offsets, pins(2), tower=OTHER)
    assert room.shown_pins() == {100, 101, 105}
    log = log_of(room.rank())
    assert (log.query_tower_version, log.version_mix) == (OTHER, {OTHER: 3})


def test_the_old_release_stays_new_while_the_next_one_catches_up(
    parts: ServingParts, assembly: Assembly, clock: FakeClock
) -> None:
    room = Room(parts, assembly, clock)
    room.serve("r1", {}, pins(2))
    room.change(1, status=STATUS_CODES["paused"])
    # A candidate that wants more than can be read before it is swapped anyway.
    room.feed.read_count = 1
    for _ in range(200):
        room.feed.put(pins(8, changed_offset=5)[6:7], 0.5, OTHER)
    room.feed.put(pins(1, changed_offset=9, status=STATUS_CODES["paused"]), 0.5, TOWER)
    room.serve("r2", {}, pins(2), tower=OTHER)
    assert not room.caught_up
    for _ in range(250):
        room.follower.turn()
    assert room.shown_pins() == {106}


def test_beyond_the_bound_a_new_pin_waits_and_a_delete_acts(
    parts: ServingParts, assembly: Assembly, clock: FakeClock
) -> None:
    room = Room(parts, assembly, clock, replace(EVERY_TURN, max_vectors=1))
    room.serve("r1", room.feed.ends(), pins(3))
    room.change(5)
    offsets = room.feed.ends()
    room.change(6)
    room.change(0, status=STATUS_CODES["deleted"])
    assert room.shown_pins() == {101, 102, 105}
    assert (room.status("refused"), room.status("waiting"), room.shown[-1].capacity_rows) == (1, 1, 1)
    # The next release holds Pin 105. What found no room is read again once the old release is gone.
    room.serve("r2", offsets, pins(6, changed_offset=1)[[0, 1, 2, 5]])
    for _ in range(2):
        room.follower.turn()
    assert room.shown_pins() == {101, 102, 105, 106}
    assert (room.status("overlay"), room.status("refused")) == (1, 0)


def test_a_release_that_is_closed_is_held_by_nobody(room: Room) -> None:
    """Its query tower and its rows would else be in memory until the release after the next one."""
    tower = weakref.ref(room.serve("r1", room.feed.ends(), pins(2)).query_tower)
    room.change(5)
    room.serve("r2", room.feed.ends(), pins(2))
    room.parts.watcher.check()
    assert tower() is None


def test_messages_that_retention_took_are_counted(room: Room) -> None:
    for pin in range(4):
        room.change(pin)
    room.feed.first["pin.embedded.v1"][1] = 2
    room.serve("r1", {"pin.embedded.v1": {0: 0, 1: 0}}, pins(2))
    assert room.caught_up
    assert room.status("gap_events") == 2


def test_a_topic_that_was_made_anew_is_read_from_its_start(room: Room) -> None:
    for pin in range(4):
        room.change(pin)
    room.serve("r1", room.feed.ends(), pins(2))
    room.feed.log["pin.embedded.v1"] = {0: [], 1: []}
    room.follower.turn()
    room.change(5)
    assert room.shown_pins() == {100, 101, 105}


def test_a_refresh_with_nothing_new_is_skipped(room: Room) -> None:
    release = room.serve("r1", room.feed.ends(), pins(2))
    room.change(5)
    view = release.inventory()
    room.follower.turn()
    assert release.inventory() is view


def test_whatever_breaks_the_server_answers_and_status_says_what(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.serve("r1", room.feed.ends(), pins(2))

    def breaks(*_: object) -> None:
        raise ZeroDivisionError("of a kind that nobody thought of")

    monkeypatch.setattr(room.feed, "read", breaks)
    room.follower.turn()
    assert room.shown_pins() == {100, 101}
    assert room.status("error") == "ZeroDivisionError: of a kind that nobody thought of"


def test_the_lag_grows_while_there_is_no_connection(
    parts: ServingParts, assembly: Assembly, clock: FakeClock
) -> None:
    room = Room(parts, assembly, clock)

    def refuses() -> FakeFeed:
        raise Refused("kafka_plaintext", "SSL", "PLAINTEXT", "Set it.")

    room.follower._connect = refuses
    clock.now += 30_000
    room.serve("r1", {}, pins(2))
    clock.now += 60_000
    room.follower.turn()
    assert (room.shown[-1].caught_up_at_ms, room.status("lag_seconds")) == (NOON_MS, 90.0)
    room.follower._connect = lambda: room.feed
    room.follower.turn()
    assert room.status("lag_seconds") == 0.0


def test_what_is_folded_and_not_shown_is_lag(
    room: Room, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = room.serve("r1", room.feed.ends(), pins(2))

    def breaks(*_: object) -> None:
        raise Refused("not_finite", "finite embeddings", "NaN", "Look at the worker.")

    clock.now += 60_000
    with monkeypatch.context() as broken:
        broken.setattr(release.shelf, "refresh", breaks)
        room.change(5)
        assert room.status("lag_events") == 0
        assert room.status("lag_seconds") == 60.0
    room.follower.turn()
    assert (room.shown_pins(), room.status("lag_seconds")) == ({100, 101, 105}, 0.0)


def test_what_was_read_and_not_folded_comes_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.serve("r1", room.feed.ends(), pins(2))

    def breaks(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(DeltaFold, "apply", breaks)
        room.change(1, status=STATUS_CODES["paused"])
    assert room.shown_pins() == {100, 101}
    room.follower.turn()
    assert room.shown_pins() == {100}
    assert room.status("error") == ""


def test_every_release_that_is_open_stays_new(room: Room, assembly: Assembly) -> None:
    """A leaf holds three; after a rollback the current one is not the one that was loaded last."""
    held = [live(fake_index(name, TOWER, pins(2)), assembly) for name in ("r1", "r2", "r3")]
    for release in held:
        room.follower.prepare(release)
    room.change(1, status=STATUS_CODES["paused"])
    held[1].close()
    assert [len(one.inventory().search(QUERY, 0, NOON_MS, 5).rows) for one in (held[0], held[2])] == [1, 1]


def found_pins(release: LiveRelease) -> list[int]:
    view = release.inventory()
    return sorted(view.describe(view.search(QUERY, 0, NOON_MS, 20).rows).pin_id.tolist())


def arrive(room: Room, assembly: Assembly, release_id: str, offsets: Offsets) -> LiveRelease:
    """A release of Pins 100 and 101 is loaded."""
    index = fake_index(release_id, TOWER, pins(2))
    index.manifest = index.manifest.model_copy(update={"offsets": offsets})
    release = live(index, assembly)
    room.follower.prepare(release)
    return release


STATES: Offsets = {"pin.features.v1": {0: 0}}
"""Of a release that needs that topic too."""


def fill_states(room: Room, count: int) -> None:
    """The states of so many Pins are on pin.features.v1."""
    for pin in range(count):
        room.feed.put(pins(pin + 1)[pin:], 0.0, NO_VERSION)


def test_a_topic_that_the_next_release_does_not_need_is_not_read_from_its_beginning(room: Room) -> None:
    """As when a batch tier was made a realtime one, or the release is rolled back to before it was one."""
    fill_states(room, 50)
    room.serve("r1", room.feed.ends() | {"pin.features.v1": {0: 50}}, pins(50))
    room.serve("r2", room.feed.ends(), pins(50))
    assert room.status("rewinds") == 0
    read_from = [assigned["pin.features.v1"][0] for assigned in room.feed.assigned]
    assert read_from == [50]
    # For a rollback to r1 it is still read.
    room.change(3, tower=NO_VERSION, status=STATUS_CODES["paused"])
    assert 103 not in room.shown_pins()


def test_a_topic_that_no_release_needs_any_more_is_not_read_on(room: Room) -> None:
    fill_states(room, 50)
    needs_states = room.feed.ends() | {"pin.features.v1": {0: 50}}
    room.serve("r1", needs_states, pins(10))
    for name in ("r2", "r3"):
        room.serve(name, room.feed.ends(), pins(10))
    assert room.feed.assigned[-1] == room.feed.ends()
    room.change(3, tower=NO_VERSION, status=STATUS_CODES["paused"])
    assert (103 in room.shown_pins(), room.status("lag_events")) == (True, 0)
    # A release that needs it again has what came meanwhile.
    room.serve("r4", needs_states, pins(10))
    assert (103 in room.shown_pins(), room.feed.assigned[-1]["pin.features.v1"]) == (False, {0: 50})


def test_releases_that_come_while_the_broker_is_away_are_all_followed(room: Room, assembly: Assembly) -> None:
    room.feed.down = True
    held = [arrive(room, assembly, name, {}) for name in ("r1", "r2", "r3")]
    assert room.status("waiting_releases") == ["r1", "r2", "r3"]
    held[1].close()
    room.feed.down = False
    room.change(1, status=STATUS_CODES["deleted"])
    # r1 is what a rollback makes current again.
    assert [found_pins(one) for one in (held[0], held[2])] == [[100], [100]]
    assert (room.status("release_id"), room.status("waiting_releases")) == ("r3", [])


def test_a_release_that_was_closed_meanwhile_is_not_followed(room: Room, assembly: Assembly) -> None:
    room.feed.silent = {"pin.features.v1"}
    arrive(room, assembly, "r1", STATES).close()
    room.feed.silent = set()
    room.follower.turn()
    assert (room.status("release_id"), room.status("waiting_releases")) == (None, [])


def test_one_that_cannot_be_followed_yet_keeps_no_other_from_it(room: Room, assembly: Assembly) -> None:
    room.feed.silent = {"pin.features.v1"}
    first, second = arrive(room, assembly, "r1", STATES), arrive(room, assembly, "r2", {})
    room.change(1, status=STATUS_CODES["paused"])
    assert (found_pins(first), found_pins(second)) == ([100, 101], [100])
    assert (room.status("release_id"), room.status("waiting_releases")) == ("r2", ["r1"])
    room.feed.silent = set()
    room.follower.turn()
    # The one that came later stays the newest.
    assert (found_pins(first), room.status("release_id")) == ([100], "r2")
    assert (room.status("waiting_releases"), room.status("error")) == ([], "")


def test_what_is_followed_is_read_on_while_the_next_one_waits_and_status_says_what_that_lacks(
    room: Room, assembly: Assembly, clock: FakeClock
) -> None:
    first = arrive(room, assembly, "r1", {})
    room.feed.silent = {"pin.features.v1"}
    second = arrive(room, assembly, "r2", STATES)
    clock.now += 30_000
    room.change(1, status=STATUS_CODES["paused"])
    assert (found_pins(first), found_pins(second)) == ([100], [100, 101])
    assert (room.status("error"), room.status("lag_seconds")) == ("that topic does not answer", 30.0)
    assert room.shown[-1].caught_up_at_ms == NOON_MS
    room.feed.silent = set()
    room.follower.turn()
    assert (found_pins(second), room.status("lag_seconds")) == ([100], 0.0)


def test_a_release_whose_reading_cannot_begin_is_not_taken_for_caught_up(
    room: Room, assembly: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.change(1, status=STATUS_CODES["paused"])
    arrive(room, assembly, "r1", room.feed.ends())

    def breaks(_: Offsets) -> None:
        raise RetryableError("not now")

    with monkeypatch.context() as broken:
        broken.setattr(room.feed, "read_from", breaks)
        second = arrive(room, assembly, "r2", {})
    assert (room.status("swapped_behind"), room.status("release_id")) == (1, "r1")
    assert found_pins(second) == [100, 101]
    room.follower.turn()
    assert (found_pins(second), room.status("release_id")) == ([100], "r2")


def test_the_thread_reads_and_ends(parts: ServingParts, assembly: Assembly, clock: FakeClock) -> None:
    room = Room(parts, assembly, clock, DeltaPolicy(catch_up_seconds=30.0))
    room.follower._closing.clear()
    room.feed.put(pins(2, changed_offset=1, status=STATUS_CODES["paused"])[1:], 0.5, TOWER)
    room.follower.start()
    room.serve("r1", {}, pins(2))
    assert room.caught_up
    assert room.shown_pins() == {100}
    room.follower.close()
    assert room.feed.closed


def test_every_moment_is_one_whole_refresh(room: Room) -> None:
    """A request that took its view before a refresh sees the old state of both Pins, not one of each."""
    room.serve("r1", room.feed.ends(), pins(2))
    view = room.parts.live()
    assert view is not None
    taken = view.inventory()
    room.feed.put(pins(1, changed_offset=1, bid_micros=20_000), 0.5, TOWER)
    room.feed.put(pins(2, changed_offset=1, bid_micros=20_000)[1:], 0.5, TOWER)
    room.follower.turn()
    bids = [
        one.describe(one.search(np.array([1, 0, 0, 0], np.float32), 0, NOON_MS, 5).rows).bid_micros.tolist()
        for one in (taken, view.inventory())
    ]
    assert bids == [[10_000, 10_000], [20_000, 20_000]]


def test_an_explanation_says_what_the_delta_segment_does_to_a_pin(room: Room) -> None:
    room.serve("r1", room.feed.ends(), pins(30))
    room.change(1, status=STATUS_CODES["paused"], tower=OTHER)
    room.change(2, dot=-9.0)
    room.change(40, dot=9.0)
    room.change(41, dot=-9.0)
    ranked = room.rank(slots=1)
    release = room.parts.live()
    found = explain(ranked, None, release).winners[0]
    assert (found.pin_id, found.outcome, found.delta) == (140, "won", "new")
    fates = {pin: explain(ranked, pin, release).pin for pin in (101, 102, 105, 141, 199)}
    assert {pin: fate and (fate.outcome, fate.delta) for pin, fate in fates.items()} == {
        101: ("status", "patched"),
        102: ("not_retrieved", "superseded"),
        105: ("outbid", None),
        141: ("not_retrieved", "new"),
        199: ("not_in_index", None),
    }
    assert fates[102] is not None
    assert fates[102].figures["dot"] == -9.0
