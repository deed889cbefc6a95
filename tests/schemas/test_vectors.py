import base64
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.vectors import CONTENT_DIMENSION, FP16_MAX, MAX_DIMENSION, decode_fp16, encode_fp16

from .examples import pin_changed, pin_embedded

fp16_numbers = st.floats(width=16, allow_nan=False, allow_infinity=False)


@given(st.lists(fp16_numbers, min_size=1, max_size=70))
def test_fp16_numbers_survive_the_round_trip(values: list[float]) -> None:
    assert decode_fp16(encode_fp16(values)) == tuple(values)


def test_encoding_is_little_endian_fp16() -> None:
    # 1.0 is 0x3c00, -2.0 is 0xc000.
    assert base64.b64decode(encode_fp16([1.0, -2.0])) == b"\x00\x3c\x00\xc0"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 65520.0, -1e9])
def test_what_fp16_cannot_hold_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"fp16|NaN"):
        encode_fp16([0.0, bad])


def test_the_largest_fp16_number_fits() -> None:
    assert decode_fp16(encode_fp16([FP16_MAX])) == (65504.0,)


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E01], ids=["inf", "-inf", "nan"])
def test_nan_and_infinity_are_refused_in_base64_too(bits: int) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        decode_fp16(base64.b64encode(struct.pack("<H", bits)).decode())


def test_an_odd_number_of_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes"):
        decode_fp16(base64.b64encode(b"abc").decode())


@pytest.mark.parametrize("text", ["AA=", "AAA", "A A=", "ÄÄ==", "AA==\n", "_w=="])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        decode_fp16(text)


def test_both_spellings_give_the_same_message() -> None:
    numbers = [i / 8 for i in range(CONTENT_DIMENSION)]
    assert pin_changed(content_embedding=numbers) == pin_changed(content_embedding=encode_fp16(numbers))


@pytest.mark.parametrize("size", [CONTENT_DIMENSION - 1, CONTENT_DIMENSION + 1, 2 * CONTENT_DIMENSION])
def test_a_content_embedding_of_another_dimension_is_refused(size: int) -> None:
    for spelling in ([0.5] * size, encode_fp16([0.5] * size)):
        with pytest.raises(ValidationError, match=f"{size} dimensions"):
            pin_changed(content_embedding=spelling)


@pytest.mark.parametrize("bad", [True, "1", None, [1.0]])
def test_a_vector_array_holds_numbers_only(bad: object) -> None:
    with pytest.raises(ValidationError, match="numbers only"):
        pin_changed(content_embedding=[0.0] * (CONTENT_DIMENSION - 1) + [bad])


@pytest.mark.parametrize("size", [0, MAX_DIMENSION + 1])
def test_an_embedding_has_at_least_one_and_at_most_4096_dimensions(size: int) -> None:
    with pytest.raises(ValidationError, match=f"{size} dimensions"):
        pin_embedded(vector=[0.0] * size)


def test_an_embedding_of_4096_dimensions_is_taken() -> None:
    assert len(decode_fp16(pin_embedded(vector=[0.0] * MAX_DIMENSION).vector)) == MAX_DIMENSION
