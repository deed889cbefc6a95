import numpy as np
import pytest
from confluent_kafka import OFFSET_BEGINNING

from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from schemas.errors import Refused
from streams.positions import (
    check_cluster,
    check_not_ahead,
    missed_events,
    position_meta,
    start_offset,
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
    ("committed", "stored", "start"),
    [
        (100, 100, 100),
        (100, 130, 100),  # killed between store and commit: their rows may be missing
        (100, 40, 40),  # another worker moved on: the state lacks 60 events
        (100, None, OFFSET_BEGINNING),
        (-1001, 40, OFFSET_BEGINNING),
        (-1001, None, OFFSET_BEGINNING),
    ],
)
def test_reading_starts_where_neither_state_nor_rows_have_a_gap(
    committed: int, stored: int | None, start: int
) -> None:
    assert start_offset(committed, stored) == start


@pytest.mark.parametrize(("low", "stored", "missed"), [(0, None, 0), (5, None, 5), (50, 40, 10), (30, 40, 0)])
def test_events_that_retention_took_before_the_state_had_them_are_counted(
    low: int, stored: int | None, missed: int
) -> None:
    assert missed_events(low, stored) == missed


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
