import numpy as np
import pytest

from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from schemas.errors import Refused
from streams.positions import (
    behind_the_group,
    check_cluster,
    check_not_ahead,
    plan_start,
    position_meta,
    stored_position,
)


def _store(meta: dict[str, bytes]) -> MemoryStore:
    store = MemoryStore(PIN_RECORD)
    store.put_many(np.empty(0, np.int64), np.empty(0, PIN_RECORD), [], meta)
    return store


def test_positions_come_back_per_partition() -> None:
    store = _store(position_meta({("a", 1): 7, ("a", 2): 9}))
    assert [stored_position(store, ("a", number)) for number in (1, 2, 3)] == [7, 9, None]


@pytest.mark.parametrize(
    ("committed", "stored", "checkpoint", "start", "silent_until"),
    [
        (100, 100, 100, 100, 100),
        (100, 130, 100, 100, 100),  # killed between store and commit: their rows may be missing
        (100, 100, 60, 60, 100),  # 40 events changed Pins that no state row has yet
        (100, None, 60, 60, 100),  # the same on another disk
        (100, 40, 100, 100, 100),  # another worker moved on, and its states were restored
        (100, 40, None, 40, 100),  # it never flushed: the state lacks 60 events
        (100, None, None, 0, 100),
        (-1001, 40, 40, 0, 0),  # a group that knows nothing gets every row again
        (-1001, None, None, 0, 0),
    ],
)
def test_reading_starts_where_neither_state_nor_rows_have_a_gap(
    committed: int, stored: int | None, checkpoint: int | None, start: int, silent_until: int
) -> None:
    planned = plan_start(committed, stored, checkpoint, low=0)
    assert (planned.offset, planned.silent_until) == (start, silent_until)


@pytest.mark.parametrize(
    ("low", "stored", "checkpoint", "missed"),
    [(0, None, None, 0), (5, None, None, 5), (50, 40, None, 10), (30, 40, None, 0), (50, 40, 45, 5)],
)
def test_events_that_retention_took_before_the_state_had_them_are_counted(
    low: int, stored: int | None, checkpoint: int | None, missed: int
) -> None:
    planned = plan_start(100, stored, checkpoint, low)
    assert planned.missed == missed
    assert planned.offset >= low


@pytest.mark.parametrize(
    ("low", "stored", "checkpoint", "unwritten"),
    [
        (0, None, None, False),  # nothing is known, so nothing can be unwritten
        (0, 40, None, True),  # a state that was never flushed
        (0, 40, 30, False),  # events 30 to 39 are read again, and their Pins are flushed then
        (35, 40, 30, True),  # events 30 to 34 are gone: the store alone knows what they did
        (35, 30, 40, False),
    ],
)
def test_states_that_only_this_disk_holds_are_found_out(
    low: int, stored: int | None, checkpoint: int | None, unwritten: bool
) -> None:
    assert plan_start(100, stored, checkpoint, low).unwritten is unwritten


def test_a_state_ahead_of_its_topic_is_refused() -> None:
    check_not_ahead(("a", 1), 40, 40)
    check_not_ahead(("a", 1), None, 0)
    with pytest.raises(Refused, match="state_ahead_of_topic"):
        check_not_ahead(("a", 1), 41, 40)


def test_a_state_belongs_to_the_cluster_that_it_was_folded_from() -> None:
    meta = check_cluster(_store({}), "one")
    assert check_cluster(_store(meta), "one") == {}
    with pytest.raises(Refused, match="state_of_another_cluster"):
        check_cluster(_store(meta), "two")


def test_a_store_behind_its_group_was_not_the_last_to_have_the_partition() -> None:
    store = _store(
        position_meta({("pin.changed.v1", 0): 7, ("pin.changed.v1", 1): 7, ("pin.aggregated.v1", 1): 2})
    )
    committed = {
        ("pin.changed.v1", 0): 7,
        ("pin.aggregated.v1", 0): 0,
        ("pin.changed.v1", 1): 6,
        ("pin.aggregated.v1", 1): 3,
        ("pin.changed.v1", 2): 1,
    }
    assert behind_the_group(store, committed) == {1, 2}
