from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.pin_changes import changes_from_frame, fold
from features.pin_state import (
    AGGREGATED,
    CHANGED,
    PIN_RECORD,
    STATUS_CODES,
    empty_records,
    stable_hash,
    title_tokens,
)
from schemas.batch import BatchDecoder, UndecodableBatch
from schemas.codec import encode
from schemas.events import PinAggregated, PinChanged
from schemas.states import TITLE_TOKENS
from schemas.vectors import CONTENT_DIMENSION, encode_fp16
from tests.schemas.examples import FULL_PIN_CHANGED, pin_aggregated, pin_changed

PINS = 4
DECODERS = {CHANGED: BatchDecoder(PinChanged), AGGREGATED: BatchDecoder(PinAggregated)}
Event = tuple[int, dict[str, Any]]
"""Offset and fields of one event."""


class State:
    """States of Pins 0 to 3 and their titles, and the fold with its arguments filled in."""

    def __init__(self) -> None:
        self.records = empty_records(np.arange(PINS))
        self.titles = [b""] * PINS

    def apply(self, events: list[Event], source: str = CHANGED) -> int:
        """Fold events of Pins 0 to 3; broker time is 10 times the offset."""
        if not events:
            return 0
        maker = pin_changed if source == CHANGED else pin_aggregated
        frame = DECODERS[source].decode([encode(maker(**fields)) for _, fields in events])
        changes = changes_from_frame(frame, source)
        offsets = np.array([offset for offset, _ in events], np.int64)
        slots = changes.pin_id.astype(np.intp)
        return fold(self.records, self.titles, slots, changes, offsets, offsets * 10)

    def same_as(self, other: "State") -> bool:
        return self.records.tobytes() == other.records.tobytes() and self.titles == other.titles


def test_a_full_change_sets_every_field_of_the_record() -> None:
    state = State()
    assert state.apply([(5, FULL_PIN_CHANGED | {"pin_id": 2})]) == 1
    record = state.records[2]
    assert record[CHANGED] == 5 and record[AGGREGATED] == -1
    assert record["occurred_at_ms"] == 1_500_000_000_000 and record["ingested_at_ms"] == 50
    assert record["status"] == STATUS_CODES["active"]
    assert record["brand"] == stable_hash("Private")
    assert record["target_ages"] == 0b100001
    assert record["display_stores"].tolist() == list(range(10))
    assert record["coupons"].tolist() == [1, 2, 3]
    assert record["content_embedding"].tolist() == [i / 64 for i in range(CONTENT_DIMENSION)]
    assert [record[f"{mode}_targeting"] for mode in ("interest", "search_term", "auto")] == [1, 0, 1]
    assert record["title_tokens"].tolist() == title_tokens(FULL_PIN_CHANGED["title"])
    assert orjson.loads(state.titles[2]) == FULL_PIN_CHANGED["title"]
    untouched = State()
    assert state.records[[0, 1, 3]].tobytes() == untouched.records[[0, 1, 3]].tobytes()


def test_absent_fields_never_overwrite() -> None:
    state = State()
    state.apply([(5, FULL_PIN_CHANGED | {"pin_id": 2})])
    before = state.records.copy()
    state.apply([(6, {"pin_id": 2, "occurred_at_ms": 1, "price_micros": 9})])
    changed = [name for name in PIN_RECORD.names or () if (state.records[name] != before[name]).any()]
    assert changed == [CHANGED, "ingested_at_ms", "price_micros"]


def test_an_empty_list_of_ages_is_a_value_and_means_everyone() -> None:
    state = State()
    state.apply([(1, {"pin_id": 0, "target_ages": ["65+"]}), (2, {"pin_id": 0, "target_ages": []})])
    assert state.records["target_ages"][0] == 0


def test_of_two_values_in_one_batch_the_later_offset_wins_whatever_its_event_time() -> None:
    state = State()
    state.apply(
        [
            (1, {"pin_id": 0, "occurred_at_ms": 2_000, "bid_micros": 1}),
            (2, {"pin_id": 0, "occurred_at_ms": 1_000, "bid_micros": 2}),
        ]
    )
    assert state.records["bid_micros"][0] == 2
    assert state.records["occurred_at_ms"][0] == 2_000


def test_the_offsets_of_the_sources_are_independent() -> None:
    state = State()
    assert state.apply([(100, {"pin_id": 0, "bid_micros": 1})]) == 1
    assert state.apply([(3, {"pin_id": 0})], AGGREGATED) == 1
    assert state.apply([(3, {"pin_id": 0, "offsite_visits": [9, 9, 9, 9]})], AGGREGATED) == 0
    assert state.records[0][CHANGED] == 100 and state.records[0][AGGREGATED] == 3
    assert state.records["offsite_visits"][0].tolist() == [1, 2, 3, 4]


changes = st.fixed_dictionaries(
    {"pin_id": st.integers(0, PINS - 1), "occurred_at_ms": st.integers(0, 50)},
    optional={
        "status": st.sampled_from(list(STATUS_CODES)),
        "title": st.sampled_from(["one pack", "two packs", ""]),
        "brand": st.sampled_from(["National", "Private"]),
        "price_micros": st.integers(0, 9),
        "coupons": st.lists(st.integers(0, 3), min_size=3, max_size=3),
        "auto_targeting": st.booleans(),
        "target_ages": st.lists(st.sampled_from(["19-24", "65+"]), max_size=2),
        "content_embedding": st.sampled_from([0.0, 1.0, 2.0]).map(lambda x: [x] * CONTENT_DIMENSION),
    },
)
logs = st.lists(changes, max_size=12).map(lambda rows: list(enumerate(rows)))


@settings(max_examples=60, deadline=None)
@given(logs, st.data())
def test_a_batch_split_anywhere_gives_the_state_of_one_batch(log: list[Event], data: st.DataObject) -> None:
    whole, parts = State(), State()
    cut = data.draw(st.integers(0, len(log)))
    assert whole.apply(log) == parts.apply(log[:cut]) + parts.apply(log[cut:])
    assert whole.same_as(parts)


@settings(max_examples=60, deadline=None)
@given(logs, st.data())
def test_redelivery_from_any_offset_changes_nothing(log: list[Event], data: st.DataObject) -> None:
    once, again = State(), State()
    once.apply(log)
    again.apply(log)
    start = data.draw(st.integers(0, len(log)))
    assert again.apply(log[start:]) == 0
    assert once.same_as(again)


@settings(max_examples=60, deadline=None)
@given(logs)
def test_a_batch_equals_a_plain_loop_over_its_events(log: list[Event]) -> None:
    state = State()
    assert state.apply(log) == len(log)
    expected: list[dict[str, Any]] = [{} for _ in range(PINS)]
    for offset, fields in log:
        pin = expected[fields["pin_id"]]
        newest = max(pin.get("occurred_at_ms", 0), fields["occurred_at_ms"])
        pin.update(fields | {"occurred_at_ms": newest, CHANGED: offset})
    for slot, pin in enumerate(expected):
        record = state.records[slot]
        assert record[CHANGED] == pin.get(CHANGED, -1)
        assert record["occurred_at_ms"] == pin.get("occurred_at_ms", 0)
        assert record["price_micros"] == pin.get("price_micros", 0)
        assert record["status"] == STATUS_CODES.get(pin.get("status", ""), 0)
        assert record["coupons"].tolist() == pin.get("coupons", [0, 0, 0])
        assert record["content_embedding"].tolist() == pin.get("content_embedding", [0.0] * CONTENT_DIMENSION)
        assert state.titles[slot] == (orjson.dumps(pin["title"]) if "title" in pin else b"")


def test_titles_are_cut_into_lower_case_words() -> None:
    assert title_tokens("Milk, 2% (1 GAL)")[:4] == [stable_hash(word) for word in ("milk", "2", "1", "gal")]
    assert len(title_tokens("w " * 30)) == TITLE_TOKENS
    assert title_tokens("") == [0] * TITLE_TOKENS


def _frame(*embeddings: object) -> pl.DataFrame:
    rows = [{"pin_id": 1, "occurred_at_ms": 5, "content_embedding": one} for one in embeddings]
    return DECODERS[CHANGED].decode([orjson.dumps(row) for row in rows])


@pytest.mark.parametrize(
    "embeddings",
    [
        ([0.0] * 47, [0.0] * 49),
        (encode_fp16([0.0] * 47), encode_fp16([0.0] * 49)),
        (encode_fp16([0.0] * 47),),
        ("AAA=",),
        ("no base64",),
        ([1e6] * CONTENT_DIMENSION,),
        ("AHwA" * 32,),
    ],
    ids=["short and long", "short and long text", "short text", "tiny", "garbage", "overflow", "infinity"],
)
def test_vectors_that_are_not_48_finite_numbers_are_left_to_pydantic(embeddings: tuple[object, ...]) -> None:
    with pytest.raises(UndecodableBatch, match="content_embedding"):
        changes_from_frame(_frame(*embeddings), CHANGED)


def test_falling_windows_are_left_to_pydantic() -> None:
    frame = DECODERS[AGGREGATED].decode([b'{"pin_id":1,"occurred_at_ms":5,"offsite_visits":[1,2,3,2]}'])
    with pytest.raises(UndecodableBatch, match="nested"):
        changes_from_frame(frame, AGGREGATED)
