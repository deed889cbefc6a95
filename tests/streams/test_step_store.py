from pathlib import Path

import pytest

from schemas.errors import Refused
from streams.step_store import Changes, StepStore, advance
from streams.steps import Output

ROW = Output("topic", b"key", b"value", partition=3, owner=5)
OTHER = Output("other", b"", b"")


def open_store(path: Path) -> StepStore:
    return StepStore(path, "test/1")


def test_keys_positions_and_outbox_are_there_after_a_restart(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    first.write(Changes({b"a1": b"x", b"a2": b"y", b"b1": b"z"}, positions={("topic", 4): 7}))
    first.finish(Changes(deletes={b"a2"}, outputs=[ROW, OTHER]))
    first.close()
    second = open_store(tmp_path)

    assert list(second.scan(b"a")) == [(b"a1", b"x")]
    assert (second.get(b"b1"), second.get(b"a2")) == (b"z", None)
    assert (second.position(("topic", 4)), second.position(("topic", 5))) == (7, 0)
    assert second.positions([("topic", 4), ("topic", 5)]) == {("topic", 4): 7}
    assert second.seen() == [("topic", 4)]
    assert second.finish(Changes()) == [ROW, OTHER]
    second.close()


def test_what_was_given_out_leaves_the_outbox_with_the_next_call(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    given = [first.finish(Changes(outputs=[ROW])), first.finish(Changes(outputs=[OTHER]))]
    first.close()
    second = open_store(tmp_path)
    given += [second.finish(Changes()), second.finish(Changes())]
    second.close()

    assert given == [[ROW], [OTHER], [OTHER], []]


def test_a_row_whose_partition_went_away_waits_until_it_is_back(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.own(frozenset({5}))
    given = [store.finish(Changes(outputs=[ROW]))]
    store.own(frozenset({1}))
    given += [store.finish(Changes()), store.finish(Changes())]
    store.own(frozenset({1, 5}))
    given += [store.finish(Changes()), store.finish(Changes())]
    store.close()

    assert given == [[ROW], [], [], [ROW], []]


def test_a_state_of_another_layout_is_refused_and_left_closed(tmp_path: Path) -> None:
    open_store(tmp_path).close()

    with pytest.raises(Refused, match="test/2"):
        StepStore(tmp_path, "test/2")
    open_store(tmp_path).close()


def test_positions_never_go_back(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write(Changes(positions={("topic", 0): 9}))

    assert advance(store, {("topic", 0): [3, 4], ("topic", 1): [3, 4]}) == {("topic", 0): 9, ("topic", 1): 5}
    store.close()
