"""Vectors inside JSON: base64 of little-endian fp16, or a plain array of numbers.

Base64 fp16 is a third of the size of a float array (172 characters for 64 dimensions) and decodes
without parsing a single number; it is what our own producer writes. Arrays are for people.
"""

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

MAX_DIMENSION = 4096
FP16_MAX = 65504.0


def encode_fp16(values: Sequence[float]) -> str:
    """Base64 of `values` as little-endian fp16. Raises ValueError for what fp16 cannot hold."""
    try:
        packed = struct.pack(f"<{len(values)}e", *values)
    except (OverflowError, struct.error) as error:
        raise ValueError(f"a vector element is no fp16 number (largest {FP16_MAX}): {error}") from error
    if not all(map(math.isfinite, values)):
        raise ValueError("a vector element is NaN or infinite")
    return base64.b64encode(packed).decode("ascii")


def decode_fp16(text: str) -> tuple[float, ...]:
    """Inverse of `encode_fp16`. Raises ValueError for bad base64, odd bytes, NaN or infinity."""
    try:
        packed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"vector is no base64: {error}") from error
    if len(packed) % 2:
        raise ValueError(f"vector has {len(packed)} bytes, fp16 takes two each")
    values = struct.unpack(f"<{len(packed) // 2}e", packed)
    if not all(map(math.isfinite, values)):
        raise ValueError("a vector element is NaN or infinite")
    return values


def _normalise(value: Any) -> Any:
    """Accept both spellings, keep one: the base64 text."""
    if isinstance(value, list | tuple):
        if not all(map(_is_number, value)):
            raise ValueError("a vector array holds numbers only")
        _check_size(len(value))
        return encode_fp16(value)
    if isinstance(value, str):
        _check_size(len(decode_fp16(value)))
        # Base64 leaves bits free before its padding; with those zero the batch decoder takes it too.
        return base64.b64encode(base64.b64decode(value)).decode("ascii")
    return value


def _is_number(value: Any) -> bool:
    return type(value) is float or (isinstance(value, int | float) and not isinstance(value, bool))


def _check_size(dimension: int) -> None:
    if not 0 < dimension <= MAX_DIMENSION:
        raise ValueError(f"vector has {dimension} dimensions, 1 to {MAX_DIMENSION} are allowed")


def _dimension(text: str) -> int:
    """Dimensions of a valid base64 fp16 text: three bytes in four characters, less the padding."""
    return (len(text) // 4 * 3 - text[-2:].count("=")) // 2


def fixed_dimension(dimension: int) -> Any:
    """A pydantic validator that refuses a `Fp16Vector` of another dimension."""

    def check(value: Any) -> Any:
        value = _normalise(value)
        # NOTE: the text's length alone does not tell: 47 and 48 dimensions both take 128 characters.
        if isinstance(value, str) and (size := _dimension(value)) != dimension:
            raise ValueError(f"vector has {size} dimensions, expected {dimension}")
        return value

    return BeforeValidator(check)


_SCHEMA = WithJsonSchema(
    {
        "oneOf": [
            {"type": "string", "contentEncoding": "base64", "description": "little-endian fp16"},
            {"type": "array", "items": {"type": "number"}, "maxItems": MAX_DIMENSION},
        ]
    }
)

Fp16Vector = Annotated[str, BeforeValidator(_normalise), _SCHEMA]
"""A finite vector, held as base64 of little-endian fp16; arrays of numbers are converted on input."""

CONTENT_DIMENSION = 48
ContentVector = Annotated[str, fixed_dimension(CONTENT_DIMENSION), _SCHEMA]
"""The content encoder's embedding of a Pin: 48 dimensions."""
