import json

import pytest
from pydantic import BaseModel

from schemas.codec import MAX_EVENT_BYTES, decode, encode, json_schema
from schemas.embeddings import PinEmbedded
from schemas.errors import DeadLetterReason, InvalidMessage
from schemas.events import EngagementObserved, PinAggregated, PinChanged
from schemas.topics import TOPICS

from .examples import FULL_PIN_CHANGED, engagement, pin_aggregated, pin_changed, pin_embedded


@pytest.mark.parametrize(
    "message",
    [pin_changed(), pin_changed(**FULL_PIN_CHANGED), pin_aggregated(), engagement(), pin_embedded()],
    ids=lambda message: type(message).__name__,
)
def test_a_message_comes_back_as_it_was(message: BaseModel) -> None:
    assert decode(type(message), encode(message)) == message


def test_unset_fields_are_not_written() -> None:
    assert json.loads(encode(pin_changed(price_micros=5))) == {
        "pin_id": 7,
        "occurred_at_ms": 1_500_000_000_000,
        "price_micros": 5,
    }


def test_null_means_absent() -> None:
    value = b'{"pin_id":7,"occurred_at_ms":1500000000000,"title":null}'
    assert decode(PinChanged, value) == pin_changed()


def test_unknown_fields_are_ignored_so_that_producers_may_add_first() -> None:
    value = b'{"pin_id":7,"occurred_at_ms":1500000000000,"colour":"red"}'
    assert decode(PinChanged, value) == pin_changed()


def _refusal(model: type[BaseModel], value: bytes | None) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        decode(model, value)
    return caught.value


def test_an_error_names_each_place_and_counts_the_rest() -> None:
    error = _refusal(PinChanged, b'{"pin_id":-1,"occurred_at_ms":"x","title":5,"bid_micros":1.5}')
    assert error.reason is DeadLetterReason.SCHEMA_INVALID
    for place in ("pin_id:", "occurred_at_ms:", "title:"):
        assert place in error.detail
    assert "bid_micros" not in error.detail
    assert error.detail.endswith("(+1 more)")


def test_an_error_inside_a_list_names_the_element() -> None:
    value = b'{"pin_id":7,"occurred_at_ms":1500000000000,"coupons":[0,-1,0]}'
    assert "coupons.1:" in _refusal(PinChanged, value).detail


@pytest.mark.parametrize("value", [b"", b"{", b"\xff\xfe", b'{"pin_id":7}}', b"not json"])
def test_what_is_no_json_is_a_decode_error(value: bytes) -> None:
    assert _refusal(PinChanged, value).reason is DeadLetterReason.DECODE_ERROR


@pytest.mark.parametrize("value", [b"null", b"[]", b"7", b"{}", b'"text"'])
def test_json_of_another_shape_is_schema_invalid(value: bytes) -> None:
    assert _refusal(PinChanged, value).reason is DeadLetterReason.SCHEMA_INVALID


def test_a_tombstone_is_a_decode_error() -> None:
    assert _refusal(PinChanged, None).reason is DeadLetterReason.DECODE_ERROR


def test_one_byte_over_the_limit_is_too_large() -> None:
    start = b'{"pin_id":7,"occurred_at_ms":1500000000000,"colour":"'
    fits = start + b"x" * (MAX_EVENT_BYTES - len(start) - 2) + b'"}'
    assert len(fits) == MAX_EVENT_BYTES
    assert decode(PinChanged, fits) == pin_changed()
    error = _refusal(PinChanged, fits + b" ")
    assert error.reason is DeadLetterReason.TOO_LARGE
    assert str(MAX_EVENT_BYTES + 1) in error.detail


def test_falling_windows_are_refused() -> None:
    value = b'{"pin_id":7,"occurred_at_ms":1500000000000,"offsite_visits":[5,4,9,9]}'
    assert "cannot fall" in _refusal(PinAggregated, value).detail


@pytest.mark.parametrize("number", ["7.0", '"7"', "true"])
def test_an_integer_is_an_integer(number: str) -> None:
    value = f'{{"pin_id":{number},"occurred_at_ms":1500000000000}}'.encode()
    assert "pin_id" in _refusal(PinChanged, value).detail


def test_published_json_schema_says_how_vectors_are_encoded() -> None:
    spelled = json.loads(json_schema(PinChanged))["properties"]["content_embedding"]["anyOf"][0]["oneOf"]
    assert spelled[0]["contentEncoding"] == "base64"
    assert spelled[1]["type"] == "array"
    assert json.loads(json_schema(PinEmbedded))["properties"]["vector"]["oneOf"] == spelled


def test_published_json_schema_is_the_same_on_every_run() -> None:
    for topic in TOPICS.values():
        assert json_schema(topic.value) == json_schema(topic.value)
        assert json.loads(json_schema(topic.value))["type"] == "object"


def test_ids_and_times_are_required_of_every_event() -> None:
    for model in (PinChanged, PinAggregated, EngagementObserved):
        assert {"pin_id", "occurred_at_ms"} <= set(json.loads(json_schema(model))["required"])
