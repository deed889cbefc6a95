import numpy as np
import pytest

from features.pin_state import PIN_RECORD, empty_records
from features.store import MemoryStore
from schemas.errors import Refused
from streams.backfill import Backfill, Chunk
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
    assert _run(Backfill(store, 3), store) == expected
    assert _run(Backfill(store, 3), store) == []


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
    _run(Backfill(store, 3), store, frozenset({1}))
    again = _run(Backfill(store, 3), store, frozenset({1, 2}))
    assert [pin for version, pin in again if version == "a"] == [1, 2, 5, 6]
    assert _run(Backfill(store, 3), store, frozenset({2})) == []


def test_over_an_empty_store_it_is_through_at_once_and_for_good() -> None:
    store = MemoryStore(PIN_RECORD)
    assert _run(Backfill(store, 3), store) == []
    store.put_many(np.array([1]), empty_records(np.array([1])), [b""])
    assert _run(Backfill(store, 3), store) == []


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
    again = Backfill(store, 3) if restarts else backfill
    assert _drain(again, store, [NEW, OLD]) == [("a", 0), ("a", 1), ("a", 2)]
    assert _drain(Backfill(store, 3), store, [NEW, OLD]) == []


def test_pins_of_a_partition_that_has_gone_get_no_more_rows() -> None:
    backfill = Backfill(_store(8), 2)
    assert backfill.next_chunk([OLD], ALL) is not None
    chunk = backfill.next_chunk([OLD], frozenset({3}))
    assert chunk is not None
    assert _pins(chunk) == [3]
    started_over = backfill.next_chunk([OLD], ALL)
    assert started_over is not None
    assert _pins(started_over) == [0, 1]
