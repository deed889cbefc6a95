import random
from typing import Any

import orjson
import polars as pl
import pytest
from pydantic import BaseModel

from schemas.batch import BatchDecoder, UndecodableBatch
from schemas.codec import MAX_EVENT_BYTES, encode
from schemas.events import PinAggregated, PinChanged
from schemas.rows import RowReader, fp16_texts
from schemas.vectors import CONTENT_DIMENSION, encode_fp16

from .examples import FULL_PIN_CHANGED, pin_aggregated, pin_changed

READER = RowReader(PinChanged)
NUMBERS = [0.5] * CONTENT_DIMENSION


def _event(**fields: Any) -> bytes:
    return orjson.dumps({"pin_id": 7, "occurred_at_ms": 5} | fields)


@pytest.mark.parametrize("model", [PinChanged, PinAggregated])
def test_good_messages_give_the_columns_that_the_bulk_decoder_gives(model: type[BaseModel]) -> None:
    rng = random.Random(3)
    full = FULL_PIN_CHANGED if model is PinChanged else orjson.loads(encode(pin_aggregated()))
    events = [{name: one for name, one in full.items() if rng.random() < 0.5} for _ in range(200)]
    required = {"pin_id": 7, "occurred_at_ms": 5}
    values = [orjson.dumps(event | required | {"unheard_of": {"a": [1]}}) for event in events]
    frame, odd = RowReader(model).read(values)
    assert odd == set()
    assert frame.equals(BatchDecoder(model).decode(values))
    assert frame.schema == BatchDecoder(model).decode(values).schema


def test_lists_of_numbers_stay_numbers_when_no_vector_is_text() -> None:
    values = [_event(content_embedding=NUMBERS), _event(), _event(content_embedding=[1] * CONTENT_DIMENSION)]
    frame, odd = READER.read(values)
    assert odd == set()
    assert frame["content_embedding"].to_list() == [NUMBERS, None, [1.0] * CONTENT_DIMENSION]


def test_vectors_in_both_spellings_become_text_in_their_places() -> None:
    text = encode_fp16([0.25] * CONTENT_DIMENSION)
    values = [_event(content_embedding=one) for one in (text, NUMBERS, [0.5], text)]
    frame, odd = READER.read([*values, _event()])
    assert odd == set()
    assert frame["content_embedding"].to_list() == [
        text,
        encode_fp16(NUMBERS),
        encode_fp16([0.5]),
        text,
        None,
    ]


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"pin_id":7}',
        b" " * MAX_EVENT_BYTES + b"{}",
        _event(pin_id=None),
        _event(pin_id=True),
        _event(pin_id=7.0),
        _event(pin_id=2**63),
        b'{"pin_id":18446744073709551617,"occurred_at_ms":5}',
        _event(price_micros="7"),
        _event(price_micros=[7]),
        _event(interest_targeting=1),
        _event(title=7),
        _event(title=["a"]),
        _event(status={}),
        _event(coupons=7),
        _event(coupons=[1, 2, 3.0]),
        _event(coupons=[0, False, 1]),
        _event(coupons=[1, True, 3]),
        _event(coupons=[1, None, 3]),
        _event(coupons=[1, "2", 3]),
        _event(coupons=[1, [2], 3]),
        _event(coupons=[1, 2, 2**63]),
        _event(target_ages=["65+", 1]),
        _event(target_ages=[None]),
        _event(content_embedding=7),
        _event(content_embedding=[0.5] * 47 + ["0.5"]),
        _event(content_embedding=[0.5] * 47 + [True]),
        _event(content_embedding=[0.5] * 47 + [None]),
        _event(content_embedding=[0.5] * 47 + [[0.5]]),
    ],
)
@pytest.mark.parametrize("vector", [NUMBERS, encode_fp16(NUMBERS)], ids=["numbers", "text"])
def test_a_value_of_another_type_is_named_and_its_neighbours_are_read(
    value: bytes | None, vector: object
) -> None:
    good = _event(content_embedding=vector, coupons=[0, 1, 2], price_micros=1, target_ages=["65+"])
    frame, odd = READER.read([good, value, good])
    assert odd == {1}
    assert frame.height == 3
    assert frame[[0, 2]].equals(BatchDecoder(PinChanged).decode([good, good]))


def test_half_a_surrogate_pair_and_nan_are_left_to_pydantic() -> None:
    _, odd = READER.read([rb'{"pin_id":7,"occurred_at_ms":5,"title":"\ud800"}', _event(), b'{"x":NaN}'])
    assert odd == {0, 2}


def test_a_pretty_printed_event_and_an_empty_batch_are_read() -> None:
    pretty = orjson.dumps(orjson.loads(encode(pin_changed())), option=orjson.OPT_INDENT_2)
    with pytest.raises(UndecodableBatch):
        BatchDecoder(PinChanged).decode([pretty])
    frame, odd = READER.read([pretty])
    assert (odd, frame["pin_id"].to_list()) == (set(), [pin_changed().pin_id])
    frame, odd = READER.read([])
    assert (odd, frame.height, frame.columns) == (set(), 0, list(PinChanged.model_fields))


def test_fp16_texts_round_as_the_codec_does_and_keep_what_is_absent() -> None:
    rows = [[0.1, -65504.0, 1e-8], None, [], [65519.9, 2.0]]
    column = fp16_texts(pl.Series(rows, dtype=pl.List(pl.Float64)))
    assert column.to_list() == [encode_fp16([0.1, -65504.0, 1e-8]), None, "", encode_fp16([65504.0, 2.0])]
