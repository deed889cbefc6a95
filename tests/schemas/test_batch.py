import json
import random
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel

from schemas.batch import BatchDecoder, UndecodableBatch, arrow_schema
from schemas.codec import decode, encode
from schemas.embeddings import PinEmbedded
from schemas.errors import InvalidMessage
from schemas.events import EngagementObserved, PinAggregated, PinChanged
from schemas.vectors import CONTENT_DIMENSION, decode_fp16, encode_fp16

from .examples import (
    FULL_PIN_CHANGED,
    VERSION_A,
    engagement,
    pin_aggregated,
    pin_changed,
    pin_embedded,
)

EVENTS: list[type[BaseModel]] = [PinChanged, PinAggregated, EngagementObserved, PinEmbedded]


@pytest.mark.parametrize("model", EVENTS)
def test_arrow_schema_has_a_nullable_field_for_each_declared_one(model: type[BaseModel]) -> None:
    schema = arrow_schema(model)
    assert schema.names == list(model.model_fields)
    assert all(field.nullable for field in schema)


def test_arrow_types_follow_the_annotations() -> None:
    schema = arrow_schema(PinChanged)
    expected = {
        "pin_id": pa.int64(),
        "title": pa.string(),
        "status": pa.string(),
        "interest_targeting": pa.bool_(),
        "coupons": pa.list_(pa.int64()),
        "target_ages": pa.list_(pa.string()),
        "content_embedding": pa.string(),
    }
    assert {name: schema.field(name).type for name in expected} == expected


def test_a_field_without_an_arrow_type_is_refused_when_the_decoder_is_built() -> None:
    class Strange(BaseModel):
        when: complex

    with pytest.raises(TypeError, match="complex"):
        arrow_schema(Strange)


def test_rows_come_in_the_order_of_the_messages_and_absent_fields_are_null() -> None:
    values = [encode(pin_changed(pin_id=i, title="t" if i % 2 else None)) for i in range(5)]
    frame = BatchDecoder(PinChanged).decode(values)
    assert frame["pin_id"].to_list() == [0, 1, 2, 3, 4]
    assert frame["title"].to_list() == [None, "t", None, "t", None]
    assert frame.columns == list(PinChanged.model_fields)


def test_vectors_come_as_text_or_as_numbers_whichever_the_batch_holds() -> None:
    numbers = [0.5] * CONTENT_DIMENSION
    text = encode(pin_changed(content_embedding=numbers))
    listed = orjson.dumps({"pin_id": 7, "occurred_at_ms": 5, "content_embedding": numbers})
    decoder = BatchDecoder(PinChanged)
    assert decoder.decode([text])["content_embedding"].to_list() == [encode_fp16(numbers)]
    assert decoder.decode([listed])["content_embedding"].to_list() == [numbers]


def _refusal(model: type[BaseModel], *values: bytes) -> str:
    with pytest.raises(UndecodableBatch) as caught:
        BatchDecoder(model).decode(values)
    return str(caught.value)


def test_a_batch_with_both_spellings_is_left_to_pydantic() -> None:
    listed = {"pin_id": 7, "occurred_at_ms": 5, "content_embedding": [0.5] * CONTENT_DIMENSION}
    text = encode(pin_changed(content_embedding=[0.5] * CONTENT_DIMENSION))
    _refusal(PinChanged, text, orjson.dumps(listed))


def test_two_events_in_one_message_are_refused() -> None:
    event = encode(pin_changed())
    assert "line break" in _refusal(PinChanged, event + b"\n" + event)


def test_a_blank_message_among_good_ones_is_refused() -> None:
    event = encode(pin_changed())
    assert "3 messages gave 2 rows" in _refusal(PinChanged, event, b"", event)


@pytest.mark.parametrize("number", ["7", "-1.5", "true", "[7]", '{"a": 1}', "1e30"])
def test_json_that_is_no_text_is_not_taken_for_text(number: str) -> None:
    value = f'{{"pin_id":7,"occurred_at_ms":5,"title":{number}}}'.encode()
    assert "title is no text in message 1" in _refusal(PinChanged, encode(pin_changed()), value)


@pytest.mark.parametrize("title", ["7", "-1.5", "true", "[7]", "{}", "2 x 100 g", "null"])
def test_text_that_looks_like_json_stays_text(title: str) -> None:
    assert BatchDecoder(PinChanged).decode([encode(pin_changed(title=title))])["title"].to_list() == [title]


def test_a_missing_required_field_is_named_with_its_count() -> None:
    event = encode(pin_changed())
    assert _refusal(PinChanged, event, b'{"pin_id":1}', b'{"pin_id":2}').startswith(
        "occurred_at_ms is missing in 2"
    )


@pytest.mark.parametrize(
    ("model", "broken", "rule"),
    [
        (PinChanged, {"pin_id": -1}, "pin_id#0"),
        (PinChanged, {"occurred_at_ms": 4_102_444_800_000}, "occurred_at_ms#1"),
        (PinChanged, {"status": "gone"}, "status#0"),
        (PinChanged, {"title": "x" * 301}, "title#0"),
        (PinChanged, {"title": "a\x00b"}, "title#1"),
        (PinChanged, {"coupons": [1, 2]}, "coupons#0"),
        (PinChanged, {"coupons": [1, 2, 3, 4]}, "coupons#1"),
        (PinChanged, {"coupons": [1, 2, 2**31]}, "coupons#2"),
        (PinChanged, {"coupons": [1, None, 2]}, "coupons#2"),
        (PinChanged, {"target_ages": ["18-24"]}, "target_ages#2"),
        (PinChanged, {"bid_micros": 2**53}, "bid_micros#1"),
        (EngagementObserved, {"quantity": 0}, "quantity#0"),
        (PinEmbedded, {"tower_version": "A" * 64}, "tower_version#0"),
        (PinEmbedded, {"title": "a\x00b"}, "title#0"),
        (PinEmbedded, {"changed_offset": -2}, "changed_offset#0"),
    ],
)
def test_a_broken_rule_is_named_by_field(model: type[BaseModel], broken: dict[str, Any], rule: str) -> None:
    good = {PinChanged: pin_changed(), EngagementObserved: engagement(), PinEmbedded: pin_embedded()}[model]
    event = orjson.loads(encode(good)) | broken
    said = _refusal(model, encode(good), orjson.dumps(event))
    assert said.startswith("broken rules: ") and rule in said
    with pytest.raises(InvalidMessage):
        decode(model, orjson.dumps(event))


_STRANGE: list[Any] = [
    None, True, 0, -1, 7, 2**31, 2**53, 2**63 - 1, 2**63, 1.5, 7.0, 1e300, "", "7", "x" * 400, "\x00",
    "é" * 100, "active", [], [1], [0, 1, 2], [1, 2, None], ["19-24"], ["x"], [[1]], {}, {"a": 1},
    [0.5] * CONTENT_DIMENSION, [1e6] * CONTENT_DIMENSION, [1, 2, 3, 4], [4, 3, 2, 1], VERSION_A,
    "AAA=", "AB==",
    encode_fp16([0.5] * CONTENT_DIMENSION), encode_fp16([0.5] * (CONTENT_DIMENSION - 1)),
]  # fmt: skip


def _mutant(rng: random.Random, event: dict[str, Any], names: list[str]) -> bytes:
    """`event` with up to two fields changed or dropped, and now and then a damaged byte."""
    mutant = dict(event)
    for _ in range(rng.randrange(3)):
        name = rng.choice(names)
        if rng.random() < 0.2:
            mutant.pop(name, None)
        else:
            mutant[name] = rng.choice(_STRANGE)
    value = bytearray(json.dumps(mutant, ensure_ascii=rng.random() < 0.5).encode())
    if rng.random() < 0.1:
        value[rng.randrange(len(value))] = rng.randrange(256)
    if rng.random() < 0.02:
        value += rng.choice([b"\n", b"{}", b"]", bytes(value)])
    return bytes(value)


def _as_columns(message: BaseModel) -> dict[str, Any]:
    return {name: getattr(message, name) for name in type(message).model_fields}


def _same(mine: Any, theirs: Any) -> bool:
    """Equal, whatever spelling a vector has."""
    if isinstance(theirs, str) and isinstance(mine, list):
        return encode_fp16(mine) == theirs
    return bool(mine == theirs)


def _vector_is_fine(row: dict[str, Any]) -> bool:
    """What `BatchDecoder` leaves to its caller: the contents of vectors."""
    for name, size in (("content_embedding", CONTENT_DIMENSION), ("vector", None)):
        value = row.get(name)
        if value is None:
            continue
        try:
            numbers = decode_fp16(value) if isinstance(value, str) else decode_fp16(encode_fp16(value))
        except ValueError:
            return False
        if not numbers or (size is not None and len(numbers) != size):
            return False
    return True


@pytest.mark.parametrize(
    "good",
    [pin_changed(**FULL_PIN_CHANGED), pin_aggregated(), engagement(), pin_embedded()],
    ids=lambda message: type(message).__name__,
)
def test_what_the_batch_decoder_accepts_pydantic_accepts_with_equal_values(good: BaseModel) -> None:
    """6,000 mutated events in all; those that pydantic takes decode in bulk once they are re-encoded."""
    rng, model = random.Random(20261120), type(good)
    decoder, event = BatchDecoder(model), orjson.loads(encode(good))
    accepted = refused = 0
    for _ in range(1_500):
        value = _mutant(rng, event, list(model.model_fields))
        one = _decode_one(model, value)
        try:
            row = _filled(decoder.decode([value]), model)
        except UndecodableBatch:
            refused += 1
        else:
            if not (_vector_is_fine(row) and _windows_are_nested(row)):
                continue
            accepted += 1
            one = one or _decode_one(model, _without_nulls(value))
            assert one is not None, value
            assert all(_same(row[name], want) for name, want in _as_columns(one).items()), value
        if one is not None:
            again = _filled(decoder.decode([encode(one)]), model)
            assert all(_same(again[name], want) for name, want in _as_columns(one).items()), value
    assert accepted > 200 and refused > 200


def _decode_one(model: type[BaseModel], value: bytes) -> BaseModel | None:
    try:
        return decode(model, value)
    except InvalidMessage:
        return None


def _without_nulls(value: bytes) -> bytes:
    return json.dumps({k: v for k, v in orjson.loads(value).items() if v is not None}).encode()


def _filled(frame: pl.DataFrame, model: type[BaseModel]) -> dict[str, Any]:
    """The first row; null means the default, as it does for the columns' readers."""
    row = frame.row(0, named=True)
    return {
        name: model.model_fields[name].default
        if value is None and not model.model_fields[name].is_required()
        else value
        for name, value in row.items()
    }


def _windows_are_nested(row: dict[str, Any]) -> bool:
    windows = [row.get(name) for name in ("offsite_visits", "engagements")]
    return all(counts is None or list(counts) == sorted(counts) for counts in windows)
