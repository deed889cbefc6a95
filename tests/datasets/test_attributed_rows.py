import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.attributed_columns import COLUMNS
from datasets.attributed_rows import (
    LINEAGE_KEY,
    PIN_COLUMNS,
    SCHEMA,
    actions_of,
    history,
    table_of,
    write_table,
)
from features.definitions import registry
from schemas.events import EngagementObserved
from schemas.impressions import ImpressionAttributed
from tests.streams.raw_events import bought, served


def row(served_at_ms: int, *, user: int | None = 1, queried_at_ms: int | None = None) -> ImpressionAttributed:
    shown = served(served_at_ms, user=user).model_dump() | {
        "queried_at_ms": queried_at_ms,
        "window_ends_at_ms": served_at_ms + 50,
        "converted": True,
        "conversion_kind": "purchase",
        "converted_at_ms": served_at_ms + 10,
        "value_micros": 7,
    }
    return ImpressionAttributed.model_validate(shown)


def no_pins(snapshot_id: str, pin_ids: Sequence[int]) -> Mapping[str, list[int | None]]:
    return {name: [None] * len(pin_ids) for name in PIN_COLUMNS}


EVENTS = st.builds(
    EngagementObserved,
    user_id=st.integers(1, 3),
    pin_id=st.integers(1, 5),
    occurred_at_ms=st.integers(90, 110),
    kind=st.sampled_from(("purchase", "click")),
)


@settings(deadline=None)
@given(
    st.lists(EVENTS, max_size=80),
    st.lists(
        st.tuples(st.integers(95, 108), st.integers(1, 3), st.one_of(st.none(), st.integers(95, 108))),
        min_size=1,
        max_size=5,
    ),
)
def test_a_history_holds_what_happened_strictly_before_the_query_oldest_first_and_nothing_else(
    events: list[EngagementObserved], asked: list[tuple[int, int, int | None]]
) -> None:
    rows = [row(at_ms, user=user, queried_at_ms=queried) for at_ms, user, queried in asked]

    table = table_of(rows, actions_of(events), no_pins)

    for one, told in zip(rows, table.to_pylist(), strict=True):
        before_ms = min(one.served_at_ms, one.queried_at_ms or one.served_at_ms)
        happened = sorted({(e.occurred_at_ms, e.pin_id, e.kind) for e in events if e.user_id == one.user_id})
        wanted = [action for action in happened if action[0] < before_ms][-50:]
        assert wanted == list(
            zip(told["history_occurred_at_ms"], told["history_pin_ids"], told["history_kinds"], strict=True)
        )
        assert all(at_ms < before_ms for at_ms in told["history_occurred_at_ms"])


def test_a_history_is_the_last_fifty_actions() -> None:
    actions = actions_of([bought(at_ms, pin=at_ms) for at_ms in range(100)])

    assert actions.pins[history(actions, 1, 90)].tolist() == list(range(40, 90))


def test_an_unknown_user_and_a_user_without_actions_have_no_history() -> None:
    actions = actions_of([bought(1, user=2)])

    assert [len(actions.pins[history(actions, user, 99)]) for user in (None, 1, 2, 3)] == [0, 0, 1, 0]


def test_a_conversion_of_the_impression_is_in_its_label_and_not_in_its_history() -> None:
    shown = row(100)
    converted = bought(110, value=7)

    (told,) = table_of([shown], actions_of([converted]), no_pins).to_pylist()

    assert (told["converted"], told["converted_at_ms"], told["value_micros"]) == (True, 110, 7)
    assert told["history_occurred_at_ms"] == []


def test_a_row_keeps_what_was_logged_and_its_query_vector_as_numbers() -> None:
    (told,) = table_of([row(100)], actions_of([]), no_pins).to_pylist()

    logged = row(100).model_dump()
    same = [name for name in SCHEMA.names if name in logged and name != "query_vector"]
    assert {name: told[name] for name in same} == {name: logged[name] for name in same}
    assert np.array(told["query_vector"], np.float32).tobytes() == b"\x00\x00\x80\x3f"


def test_a_damaged_query_vector_is_none() -> None:
    shown = row(100).model_copy(update={"query_vector": "no base64!"})

    assert table_of([shown], actions_of([]), no_pins)["query_vector"].to_pylist() == [None]


def test_pins_are_looked_up_in_the_snapshot_of_each_row() -> None:
    def pins(snapshot_id: str, pin_ids: Sequence[int]) -> Mapping[str, list[int | None]]:
        return dict(no_pins(snapshot_id, pin_ids)) | {
            "pin_price_micros": [int(snapshot_id) * 100 + pin for pin in pin_ids]
        }

    rows = [
        row(100).model_copy(update={"snapshot_id": snapshot, "pin_id": pin})
        for snapshot, pin in (("1", 7), ("2", 8), ("1", 9))
    ]

    assert table_of(rows, actions_of([]), pins)["pin_price_micros"].to_pylist() == [107, 208, 109]


def test_what_was_logged_of_a_pin_stands_whole_and_its_snapshot_is_not_asked() -> None:
    """A part of it from the snapshot would be of another moment."""

    def no_snapshot(snapshot_id: str, pin_ids: Sequence[int]) -> Mapping[str, list[int | None]]:
        raise AssertionError(f"{snapshot_id} was asked for {pin_ids}")

    logged = {"pin_price_micros": 5, "pin_target_ages": 0, "pin_updated_at_ms": 90}

    (told,) = table_of([row(100).model_copy(update=logged)], actions_of([]), no_snapshot).to_pylist()

    assert {name: told[name] for name in PIN_COLUMNS} == dict.fromkeys(PIN_COLUMNS) | logged


def test_the_file_is_whole_with_its_lineage_or_not_there(tmp_path: Path) -> None:
    out = tmp_path / "folder" / "rows.parquet"
    table = table_of([row(100)], actions_of([]), no_pins)

    assert write_table(out, [table, table], registry()) == 2

    read = pq.read_table(out)
    assert (read.num_rows, read.schema.names) == (2, [one.name for one in COLUMNS])
    assert [one["column"] for one in json.loads(read.schema.metadata[LINEAGE_KEY])] == read.schema.names
    assert [path.name for path in out.parent.iterdir()] == ["rows.parquet"]


def test_a_failure_leaves_the_file_before_it(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    table = table_of([row(100)], actions_of([]), no_pins)
    write_table(out, [table], registry())

    with pytest.raises(AttributeError):
        write_table(out, [table, None], registry())

    assert pq.read_table(out).num_rows == 1
    assert len(list(tmp_path.iterdir())) == 1
