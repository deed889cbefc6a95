"""Which states are written when, and that a checkpoint never says more than is acknowledged."""

import numpy as np

from features.pin_state import PIN_RECORD, empty_records
from features.store import MemoryStore
from schemas.codec import decode
from schemas.states import StateCheckpointed
from streams.state_flush import FlushSettings, FlushSurroundings, StateFlush
from streams.state_rows import StateRows

C, A = "pin.changed.v1", "pin.aggregated.v1"
NONE = np.empty(0, np.int64)
OLD, NEW, GONE = "a" * 64, "b" * 64, "c" * 64


class _World:
    """A store of ten Pins on two partitions, a clock, and what the state topic ends at."""

    def __init__(self, chunk_pins: int = 4) -> None:
        self.store = MemoryStore(PIN_RECORD)
        self.now, self.ends, self.embedded = 0.0, {0: 100, 1: 200}, {0: ["a" * 64], 1: list[str]()}
        records = empty_records(np.arange(10))
        records["partition"] = np.arange(10) % 2
        self.store.put_many(records["pin_id"], records, [b""] * 10)
        self.flush = StateFlush(
            self.store,
            FlushSettings("w", every_seconds=10.0, chunk_pins=chunk_pins),
            FlushSurroundings(
                lambda partitions: {number: self.ends[number] for number in partitions},
                lambda number: self.embedded[number],
                lambda: self.now,
                lambda: 1_000,
            ),
        )
        self.flush.begin({(C, 0): 0, (C, 1): 0, (A, 0): 0, (A, 1): 0}, {}, NONE)


def _pins(rows: StateRows | None) -> list[int]:
    return [] if rows is None else [int(key) for key in rows.keys]


def _said(rows: StateRows | None) -> dict[int, StateCheckpointed]:
    assert rows is not None
    return {one.partition: one for one in (decode(StateCheckpointed, v.encode()) for v in rows.values)}


def test_pins_that_changed_are_written_once_when_the_time_has_come() -> None:
    world = _World()
    world.flush.note(np.array([3, 5]), {(C, 1): 10})
    world.flush.note(np.array([5, 0]), {(C, 1): 12, (C, 0): 7})
    assert world.flush.next_rows() is None
    world.now = 10.0
    assert _pins(world.flush.next_rows()) == [0, 3, 5]
    assert world.flush.next_rows() is None


def test_a_checkpoint_comes_after_the_last_chunk_and_covers_what_was_noted_before_the_flush_began() -> None:
    world = _World(chunk_pins=2)
    world.flush.note(np.array([1, 3, 5]), {(C, 1): 12})
    world.now = 10.0
    assert _pins(world.flush.next_rows()) == [1, 3]
    assert world.flush.next_checkpoints() is None  # Pin 5 is not out yet
    world.flush.note(np.array([7]), {(C, 1): 20})  # too late for this flush
    assert _pins(world.flush.next_rows()) == [5]
    said = _said(world.flush.next_checkpoints())
    assert said[1].covers == {C: 12, A: 0}
    assert (said[1].state_offset, said[0].state_offset) == (200, 100)
    assert said[0].embedded == ["a" * 64]
    assert world.flush.acknowledged() == {
        "position/pin.features.v1/0": b"100",
        "position/pin.features.v1/1": b"200",
    }
    world.now = 20.0
    assert _pins(world.flush.next_rows()) == [7]


def test_until_the_checkpoint_is_acknowledged_no_other_flush_begins_and_nothing_is_stored() -> None:
    world = _World()
    world.flush.note(np.array([1]), {(C, 1): 12})
    world.now = 10.0
    world.flush.next_rows()
    assert world.flush.acknowledged() == {}
    assert world.flush.next_checkpoints() is not None
    world.now = 30.0
    world.flush.note(np.array([2]), {(C, 0): 2})
    assert world.flush.next_rows() is None
    world.flush.acknowledged()
    assert _pins(world.flush.next_rows()) == [2]


def test_what_was_said_is_not_said_again() -> None:
    world = _World()
    for now in (10.0, 20.0):
        world.now = now
        assert world.flush.next_rows() is None
        rows = world.flush.next_checkpoints()
        assert (rows is None) is (now == 20.0)
        world.flush.acknowledged()
    world.embedded[1] = ["b" * 64]
    world.now = 30.0
    world.flush.next_rows()
    assert list(_said(world.flush.next_checkpoints())) == [1]


def test_poison_alone_moves_the_checkpoint_too() -> None:
    world = _World()
    world.flush.note(NONE, {(C, 0): 9})
    world.now = 10.0
    assert world.flush.next_rows() is None
    assert _said(world.flush.next_checkpoints())[0].covers == {C: 9, A: 0}


def test_states_that_only_this_disk_holds_are_written_with_the_first_flush() -> None:
    world = _World()
    world.flush.begin({(C, 0): 5}, {}, np.array([4, 2]))
    world.now = 10.0
    assert _pins(world.flush.next_rows()) == [2, 4]


def test_lost_partitions_leave_nothing_behind() -> None:
    world = _World()
    world.flush.note(np.array([1]), {(C, 1): 12})
    world.now = 10.0
    world.flush.drop()
    assert world.flush.next_rows() is None
    assert world.flush.next_checkpoints() is None


def test_a_tower_that_is_no_longer_live_is_taken_back_from_the_checkpoints() -> None:
    world = _World()
    world.now = 10.0
    world.flush.next_rows()
    world.flush.next_checkpoints()
    world.flush.acknowledged()
    again = _said(world.flush.retract(["c" * 64]))
    assert {number: one.embedded for number, one in again.items()} == {0: []}
    assert again[0].covers == {C: 0, A: 0}
    assert world.flush.retract(["c" * 64]) is None


def test_a_hand_over_does_not_wait_for_the_time_to_come() -> None:
    world = _World()
    world.flush.note(np.array([1]), {(C, 1): 12})
    assert world.flush.next_rows() is None
    assert _pins(world.flush.next_rows(at_once=True)) == [1]


def _live(world: _World) -> dict[int, list[str]]:
    """What the next flush says is live; it has nothing else to say."""
    world.now += 10.0
    while world.flush.next_rows() is not None:
        pass
    rows = world.flush.next_checkpoints()
    world.flush.acknowledged()
    return {} if rows is None else {number: one.live for number, one in _said(rows).items()}


def test_a_checkpoint_names_the_towers_that_were_live_when_its_offsets_were_taken() -> None:
    world = _World(chunk_pins=2)
    world.flush.follow([OLD], all_emitted=True)
    world.flush.note(np.array([1, 3, 5]), {(C, 1): 12})
    world.now = 10.0
    assert _pins(world.flush.next_rows()) == [1, 3]
    world.flush.follow([OLD, NEW], all_emitted=True)  # events from 12 on may have been embedded without it
    assert _pins(world.flush.next_rows()) == [5]
    assert {number: one.live for number, one in _said(world.flush.next_checkpoints()).items()} == {
        0: [OLD],
        1: [OLD],
    }
    world.flush.acknowledged()
    assert _live(world) == {0: [OLD, NEW], 1: [OLD, NEW]}


def test_a_tower_that_becomes_live_is_not_kept_waiting_for_the_next_flush() -> None:
    world = _World()
    world.flush.follow([OLD], all_emitted=True)
    assert _live(world) == {0: [OLD], 1: [OLD]}
    world.flush.note(np.array([4]), {(C, 0): 3})
    world.flush.follow([OLD], all_emitted=True)
    assert world.flush.next_rows() is None
    world.flush.follow([OLD, NEW], all_emitted=True)
    assert _pins(world.flush.next_rows()) == [4]


def test_while_silent_events_are_folded_only_what_the_owner_before_has_named_is_named() -> None:
    world = _World()
    before = StateCheckpointed(
        state_topic="pin.features.v1",
        partition=0,
        state_offset=9,
        covers={C: 0, A: 0},
        live=[OLD, GONE],
        worker="v",
        occurred_at_ms=0,
    )
    world.flush.begin({(C, 0): 0, (C, 1): 0}, {0: before}, NONE)
    world.flush.follow([OLD, NEW], all_emitted=False)
    world.flush.note(np.array([2]), {(C, 0): 4})
    assert _live(world) == {0: [OLD], 1: []}
    world.flush.follow([OLD, NEW], all_emitted=True)
    assert _live(world) == {0: [OLD, NEW], 1: [OLD, NEW]}


def test_an_owner_that_has_had_no_turn_repeats_what_was_live() -> None:
    world = _World()
    world.flush.follow([OLD], all_emitted=True)
    _live(world)
    world.flush.begin({(C, 0): 5}, dict(world.flush._checkpoints), NONE)
    assert _live(world) == {0: [OLD]}


def test_a_tower_that_is_no_longer_live_is_taken_back_from_what_is_out_and_from_what_is_under_way() -> None:
    world = _World(chunk_pins=1)
    world.embedded = {0: [], 1: []}
    world.flush.follow([OLD, NEW], all_emitted=True)
    _live(world)
    world.flush.note(np.array([1, 3]), {(C, 1): 12})
    world.now += 10.0
    assert _pins(world.flush.next_rows()) == [1]
    assert world.flush.names_others([OLD])
    assert not world.flush.names_others([NEW, OLD])
    again = _said(world.flush.retract([OLD]))
    assert {number: (one.live, one.covers.get(C)) for number, one in again.items()} == {
        0: ([OLD], 0),
        1: ([OLD], 0),
    }
    world.flush.follow([OLD, NEW], all_emitted=True)  # it comes back before the flush is through
    assert _pins(world.flush.next_rows()) == [3]
    assert _said(world.flush.next_checkpoints())[1].live == [OLD]
