import numpy as np
import pytest

from features.pin_state import PIN_RECORD, empty_records
from features.store import MemoryStore
from features.tier_slices import buckets
from schemas.errors import Refused
from schemas.states import StateCheckpointed
from schemas.tiers import Tier, Tiers
from streams.backfill import Backfill, Chunk
from streams.embedded_tiers import EmbeddedTiers
from tests.fakes import FakePinTower
from tests.schemas.examples import VERSION_A, VERSION_B

OLD, NEW = FakePinTower(version=VERSION_A), FakePinTower(version=VERSION_B)
ALL = frozenset(range(4))


def _store(pins: int) -> MemoryStore:
    store, ids = MemoryStore(PIN_RECORD), np.arange(pins)
    records = empty_records(ids)
    records["partition"] = ids % 4
    store.put_many(ids, records, [b'"t"'] * pins)
    return store


def _save(store: MemoryStore, chunk: Chunk) -> None:
    store.put_many(np.empty(0, np.int64), np.empty(0, PIN_RECORD), [], chunk.meta())


def _pins(chunk: Chunk) -> list[int]:
    return [int(key.split(":")[0]) for key in chunk.rows.keys]


def _run(backfill: Backfill, store: MemoryStore, partitions: frozenset[int] = ALL) -> list[tuple[str, int]]:
    """(version's first letter, Pin) of every row, saved as the worker does."""
    rows: list[tuple[str, int]] = []
    while (chunk := backfill.next_chunk([OLD, NEW], partitions)) is not None:
        rows += [(chunk.version[0], pin) for pin in _pins(chunk)]
        _save(store, chunk)
    return rows


def test_every_stored_pin_gets_a_row_of_each_live_tower_once() -> None:
    store = _store(10)
    expected = [("a", pin) for pin in range(10)] + [("b", pin) for pin in range(10)]
    backfill = Backfill(store, 3)
    assert _run(backfill, store) == expected
    assert _run(backfill, store) == []
    assert _run(_restarted(backfill, store, 3), store) == []


def test_only_acknowledged_rows_make_a_partition_complete_for_others() -> None:
    store = _store(4)
    backfill = Backfill(store, 8)
    assert backfill.next_chunk([OLD], ALL) is not None
    assert backfill.next_chunk([OLD], ALL) is not None  # the empty one that ends the pass
    assert [backfill.embedded(number) for number in range(4)] == [[], [], [], []]
    backfill.acknowledged()
    assert [backfill.embedded(number) for number in range(4)] == [[VERSION_A]] * 4


def test_an_owner_that_has_had_no_turn_repeats_what_it_was_told() -> None:
    store = _store(8)
    owner = Backfill(store, 3)
    _run(owner, store)
    for next_store in (store, _store(8)):  # on the same disk and on another one
        briefly = _restarted(owner, next_store, 3)
        briefly.acknowledged()
        assert briefly.embedded(1) == [VERSION_A, VERSION_B]


def test_a_partition_that_is_complete_elsewhere_is_not_embedded_again() -> None:
    first, second = _store(8), _store(8)
    owner = Backfill(first, 3)
    _run(owner, first, frozenset({1}))
    rows = _run(_restarted(owner, second, 3), second, frozenset({1, 2}))
    assert [pin for version, pin in rows if version == "a"] == [2, 6]


def test_after_a_restart_it_goes_on_where_it_was_saved() -> None:
    store = _store(10)
    backfill = Backfill(store, 4)
    for _ in range(2):
        chunk = backfill.next_chunk([OLD], ALL)
        assert chunk is not None
        if chunk.progress.after == 3:
            _save(store, chunk)  # the second chunk is lost with the process
    again = Backfill(store, 4).next_chunk([OLD], ALL)
    assert again is not None
    assert _pins(again) == [4, 5, 6, 7]


def test_pins_of_other_workers_partitions_are_left_to_them() -> None:
    store = _store(8)
    assert _run(Backfill(store, 3), store, frozenset({1})) == [("a", 1), ("a", 5), ("b", 1), ("b", 5)]


def test_a_partition_that_comes_later_starts_it_over() -> None:
    store = _store(8)
    backfill = Backfill(store, 3)
    first = backfill.next_chunk([OLD], frozenset({1, 3}))
    assert first is not None
    assert _pins(first) == [1]
    again = _run(backfill, store, frozenset({1, 2}))
    assert [pin for version, pin in again if version == "a"] == [1, 2, 5, 6]
    assert _run(backfill, store, frozenset({2})) == []


def test_over_an_empty_store_it_is_through_at_once_and_for_good() -> None:
    store = MemoryStore(PIN_RECORD)
    backfill = Backfill(store, 3)
    assert _run(backfill, store) == []
    store.put_many(np.array([1]), empty_records(np.array([1])), [b""])
    assert _run(_restarted(backfill, store, 3), store) == []


def test_states_are_read_when_they_are_embedded() -> None:
    store = _store(4)
    backfill = Backfill(store, 2)
    assert backfill.next_chunk([OLD], ALL) is not None
    late = empty_records(np.array([3]))
    late["price_micros"], late["partition"] = 99, 3
    store.put_many(np.array([3]), late, [b""])
    chunk = backfill.next_chunk([OLD], ALL)
    assert chunk is not None
    assert ['"price_micros":99' in value for value in chunk.rows.values] == [False, True]


def test_nothing_happens_without_partitions() -> None:
    assert Backfill(_store(4), 2).next_chunk([OLD], frozenset()) is None


def test_a_pin_that_cannot_be_embedded_is_left_out_and_a_broken_tower_is_refused() -> None:
    some = Backfill(_store(4), 4).next_chunk([FakePinTower(poison=frozenset({2}))], ALL)
    assert some is not None
    assert _pins(some) == [0, 1, 3]
    with pytest.raises(Refused, match="tower_broken"):
        Backfill(_store(20), 20).next_chunk([FakePinTower(poison=frozenset(range(20)))], ALL)


def test_a_candidate_that_fails_stops_nothing_and_its_partitions_are_not_called_complete() -> None:
    store, broken = _store(40), FakePinTower(version=VERSION_B, poison=frozenset(range(1, 40, 2)))
    backfill = Backfill(store, 20)
    rows = _drain(backfill, store, [OLD, broken])
    assert [pin for version, pin in rows if version == "a"] == list(range(40))
    assert [pin for version, pin in rows if version == "b"] == list(range(0, 40, 2))
    backfill.acknowledged()
    assert [backfill.embedded(number) for number in range(4)] == [[VERSION_A, VERSION_B], [VERSION_A]] * 2
    progress = backfill.progress[VERSION_B]
    assert (progress.done, progress.lacking, progress.failed, progress.pins) == (True, (1, 3), 20, 20)
    assert _drain(backfill, store, [OLD, broken]) == []  # nobody goes round in circles


def test_a_candidate_that_embeds_nothing_is_passed_over_to_the_end() -> None:
    store, broken = _store(40), FakePinTower(version=VERSION_B, poison=frozenset(range(40)))
    backfill = Backfill(store, 20)
    assert {version for version, _ in _drain(backfill, store, [OLD, broken])} == {"a"}
    backfill.acknowledged()
    assert backfill.embedded(0) == [VERSION_A]


def test_what_a_candidate_lacked_is_tried_again_at_the_next_start() -> None:
    store, broken = _store(8), FakePinTower(version=VERSION_B, poison=frozenset({1}))
    before = Backfill(store, 3)
    _drain(before, store, [OLD, broken])
    assert _run(_restarted(before, store, 3), store) == [("b", 1), ("b", 5)]


def test_a_pass_that_was_cut_short_does_not_forget_what_it_could_not_embed() -> None:
    store, broken = _store(8), FakePinTower(version=VERSION_B, poison=frozenset({1}))
    backfill = Backfill(store, 3)
    while (chunk := backfill.next_chunk([OLD, broken], ALL)) is not None:
        _save(store, chunk)
        if chunk.version == VERSION_B and chunk.progress.after == 2:
            break
    again = Backfill(store, 3)
    again.begin({number: _checkpoint(number, [VERSION_A]) for number in ALL})
    assert _drain(again, store, [OLD, broken]) == [("b", pin) for pin in range(3, 8)]
    again.acknowledged()
    assert [again.embedded(number) for number in range(4)] == [
        [VERSION_A, VERSION_B], [VERSION_A], [VERSION_A, VERSION_B], [VERSION_A, VERSION_B]
    ]  # fmt: skip


@pytest.mark.parametrize("when", ["before", "under way", "after"])
def test_a_partition_in_which_an_event_got_no_row_is_complete_no_longer(when: str) -> None:
    store = _store(8)
    backfill = Backfill(store, 3)
    if when == "before":
        backfill.lost(VERSION_B, {2})
    while (chunk := backfill.next_chunk([OLD, NEW], ALL)) is not None:
        _save(store, chunk)
        if when == "under way" and chunk.version == VERSION_B and chunk.progress.after == 2:
            backfill.lost(VERSION_B, {2})
    backfill.acknowledged()
    if when == "after":
        backfill.lost(VERSION_B, {2})
        backfill.acknowledged()
    # A pass that began after it has embedded that Pin's state as it is now.
    lacks = when != "before"
    assert backfill.embedded(2) == ([VERSION_A] if lacks else [VERSION_A, VERSION_B])
    assert _drain(backfill, store, [OLD, NEW]) == []
    assert _run(_restarted(backfill, store, 3), store) == ([("b", 2), ("b", 6)] if lacks else [])


def _restarted(before: Backfill, store: MemoryStore, chunk_pins: int) -> Backfill:
    """A process that finds what the one before it has told in its checkpoints."""
    before.acknowledged()
    again = Backfill(store, chunk_pins)
    again.begin(
        {
            number: StateCheckpointed(
                state_topic="pin.features.v1",
                partition=number,
                state_offset=0,
                covers={},
                embedded=before.embedded(number),
                worker="w",
                occurred_at_ms=0,
            )
            for number in ALL
        }
    )
    return again


def _drain(backfill: Backfill, store: MemoryStore, towers: list[FakePinTower]) -> list[tuple[str, int]]:
    rows: list[tuple[str, int]] = []
    while (chunk := backfill.next_chunk(towers, ALL)) is not None:
        rows += [(chunk.version[0], pin) for pin in _pins(chunk)]
        _save(store, chunk)
    return rows


@pytest.mark.parametrize("restarts", [False, True])
def test_a_tower_that_comes_back_gets_a_row_of_every_pin_again(restarts: bool) -> None:
    store = _store(2)
    backfill = Backfill(store, 3)
    assert _drain(backfill, store, [OLD, NEW]) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert _drain(backfill, store, [NEW]) == []
    store.put_many(np.array([2]), empty_records(np.array([2])), [b""])  # OLD has no row of it
    again = _restarted(backfill, store, 3) if restarts else backfill
    assert _drain(again, store, [NEW, OLD]) == [("a", 0), ("a", 1), ("a", 2)]
    assert _drain(_restarted(again, store, 3), store, [NEW, OLD]) == []


def test_pins_of_a_partition_that_has_gone_get_no_more_rows() -> None:
    backfill = Backfill(_store(8), 2)
    assert backfill.next_chunk([OLD], ALL) is not None
    chunk = backfill.next_chunk([OLD], frozenset({3}))
    assert chunk is not None
    assert _pins(chunk) == [3]
    started_over = backfill.next_chunk([OLD], ALL)
    assert started_over is not None
    assert _pins(started_over) == [0, 1]


@pytest.mark.parametrize("crashes", [False, True])
def test_a_pass_starts_over_in_partitions_that_another_worker_had_meanwhile(crashes: bool) -> None:
    store = _store(8)
    before = Backfill(store, 3)
    chunk = before.next_chunk([OLD], ALL)
    assert chunk is not None
    _save(store, chunk)
    assert _pins(chunk) == [0, 1, 2]

    again = Backfill(store, 3)
    again.begin({}, {1})
    if crashes:  # before it has handed out anything
        again = Backfill(store, 3)
        again.begin({})
    rows = _run_only(again, store)
    assert rows[:3] == [0, 1, 2]
    assert rows == list(range(8))


def test_a_pass_goes_on_where_nobody_else_was() -> None:
    store = _store(8)
    before = Backfill(store, 3)
    chunk = before.next_chunk([OLD], ALL)
    assert chunk is not None
    _save(store, chunk)
    again = Backfill(store, 3)
    again.begin({}, {99})
    assert _run_only(again, store) == [3, 4, 5, 6, 7]


def _run_only(backfill: Backfill, store: MemoryStore) -> list[int]:
    return [pin for _, pin in _drain(backfill, store, [OLD])]


def _checkpoint(number: int, embedded: list[str]) -> StateCheckpointed:
    return StateCheckpointed(
        state_topic="pin.features.v1",
        partition=number,
        state_offset=0,
        covers={},
        embedded=embedded,
        worker="w",
        occurred_at_ms=0,
    )


def test_left_to_the_batch_job_nothing_is_embedded_and_no_tower_is_called_complete() -> None:
    backfill = Backfill(_store(10), 3, by_worker=False)
    assert _run(backfill, _store(10)) == []
    backfill.acknowledged()
    assert [backfill.embedded(number) for number in range(4)] == [[], [], [], []]


def test_left_to_the_batch_job_what_an_owner_before_called_complete_stays_so_while_it_is_live() -> None:
    backfill = Backfill(_store(10), 3, by_worker=False)
    backfill.begin({1: _checkpoint(1, [VERSION_A])})
    assert backfill.next_chunk([OLD, NEW], ALL) is None
    backfill.acknowledged()
    assert (backfill.embedded(1), backfill.embedded(2)) == ([VERSION_A], [])
    assert backfill.drops([VERSION_B])
    assert backfill.next_chunk([NEW], ALL) is None
    assert backfill.next_chunk([OLD, NEW], ALL) is None  # back, but it has missed what came meanwhile
    assert backfill.embedded(1) == []


def test_pins_of_batch_tiers_are_left_out() -> None:
    store = _store(10)
    half = Tiers(tiers=[Tier(name="hot", end_bucket=50), Tier(name="slow", policy="batch", first_bucket=50)])
    rows = _run(Backfill(store, 3, EmbeddedTiers(half)), store)
    expected = np.flatnonzero(buckets(np.arange(10)) < 50).tolist()
    assert 0 < len(expected) < 10
    assert rows == [("a", pin) for pin in expected] + [("b", pin) for pin in expected]
