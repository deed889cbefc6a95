from pathlib import Path

import pytest

from schemas.errors import Refused
from streams.window_store import WindowStore, WindowWrites, id_key

LANE = ("visit.observed.v1", 3)


def test_everything_of_a_write_is_there_after_a_restart(tmp_path: Path) -> None:
    store = WindowStore(tmp_path)
    key = id_key(0, 1, 3, b"x" * 16)
    writes = WindowWrites(
        {(1, 5): b"ab"}, {(1, 7, 5), (1, 7, 6), (1, 8, 5)}, [key], {LANE: 9}, {"a": b"1", "b": None}
    )
    store.write(writes)
    store.close()

    store = WindowStore(tmp_path)
    assert store.counts([(1, 5), (2, 5)]) == [b"ab", None]
    assert store.known([key, id_key(0, 1, 4, b"x" * 16)]) == [True, False]
    assert store.pins_of_day(1, 7, -1, 10) == [5, 6]
    assert store.positions == {LANE: 9}
    assert (store.meta("a"), store.meta("b")) == (b"1", None)
    store.close()


def test_the_pins_of_a_day_come_in_pieces_and_no_other_days(tmp_path: Path) -> None:
    store = WindowStore(tmp_path)
    store.write(WindowWrites(days={(1, 7, 2**63 - 1), (1, 7, 0), (1, 7, 300), (1, 8, 1), (2, 7, 1)}))
    assert store.pins_of_day(1, 7, -1, 2) == [0, 300]
    assert store.pins_of_day(1, 7, 300, 2) == [2**63 - 1]
    assert store.pins_of_day(1, 7, 2**63 - 1, 2) == []
    store.close()


def test_pins_that_have_to_be_told_wait_until_they_are(tmp_path: Path) -> None:
    store = WindowStore(tmp_path)
    store.write(WindowWrites(to_tell={(1, 2**63 - 1), (1, 7), (1, 3), (2, 5)}))
    store.write(WindowWrites(told=[(1, 7), (1, 8)]))
    store.close()

    store = WindowStore(tmp_path)
    assert [store.pins_to_tell(1, most) for most in (1, 9)] == [[3], [3, 2**63 - 1]]
    assert [store.pins_to_tell(number, 9) for number in (0, 2, 3)] == [[], [5], []]
    store.close()


def test_the_first_day_with_counts_is_of_the_partition_that_is_asked_for(tmp_path: Path) -> None:
    store = WindowStore(tmp_path)
    store.write(WindowWrites(days={(1, 7, 5), (1, 9, 1), (3, 2, 5)}))
    assert [store.first_day(number) for number in range(5)] == [None, 7, None, 2, None]
    store.close()


def test_days_before_the_epoch_are_none_and_forgetting_them_forgets_nothing(tmp_path: Path) -> None:
    store = WindowStore(tmp_path)
    store.write(WindowWrites(days={(1, 0, 5)}))
    writes = WindowWrites()
    writes.forget_days(1, -70)
    store.write(writes)
    assert store.pins_of_day(1, 0, -1, 9) == [5]
    store.close()


def test_forgetting_ends_where_it_should(tmp_path: Path) -> None:
    store = WindowStore(tmp_path)
    ids = [id_key(topic, 1, day, b"x" * 16) for topic in (0, 1) for day in (3, 4)]
    store.write(WindowWrites({(1, 5): b"ab"}, {(1, 6, 5), (1, 7, 5), (2, 6, 5)}, ids))
    writes = WindowWrites({(1, 5): b""})
    writes.forget_days(1, 7)
    writes.forget_ids(0, 1, 4)
    store.write(writes)

    assert store.counts([(1, 5)]) == [None]
    assert [store.pins_of_day(*place, -1, 9) for place in ((1, 6), (1, 7), (2, 6))] == [[], [5], [5]]
    assert store.known(ids) == [False, True, True, True]
    store.close()


def test_a_directory_of_another_layout_is_refused(tmp_path: Path) -> None:
    store = WindowStore(tmp_path)
    store.write(WindowWrites(meta={"layout": b"older"}))
    store.close()
    with pytest.raises(Refused, match="record_layout"):
        WindowStore(tmp_path)
