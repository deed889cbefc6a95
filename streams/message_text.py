"""Kafka messages as people can read them."""

import base64
import functools
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import orjson

from schemas.batch import vector_fields
from schemas.topics import TOPICS
from schemas.vectors import decode_fp16

from .dead_letters import Headers

_SHOWN_NUMBERS = 4
_SHOWN_BYTES = 2_000
_LEVELS_AROUND = 8
_FP32_FIELD = "query_vector"
"""The one vector that is logged as it was scored; all others are fp16."""


def readable(raw: bytes | None) -> str | None:
    """Bytes as text where they are text, as `0x…` where not; the beginning only, if they are many.

    What would move the cursor or change a colour is escaped as in JSON.
    """
    if raw is None:
        return None
    more = f" … ({len(raw):,} bytes)" if len(raw) > _SHOWN_BYTES else ""
    text = _text(raw[:_SHOWN_BYTES], cut=bool(more))
    if text is None:
        return f"0x{raw[:_SHOWN_BYTES].hex()}{more}"
    return escaped(text) + more


def escaped(text: str) -> str:
    """Text without what would move the cursor or change a colour: where there is some, escaped as in JSON."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def json_line(value: Any) -> str:
    """A value as JSON for a terminal, with the same characters escaped. Raises TypeError as orjson does."""
    text = orjson.dumps(value).decode()
    return text if text.isprintable() else "".join(map(escaped, text))


def _text(raw: bytes, *, cut: bool) -> str | None:
    """UTF-8 text; where it was cut, the last character may be in pieces."""
    for lost in range(4 if cut else 1):
        try:
            return raw[: len(raw) - lost].decode("utf-8")
        except UnicodeDecodeError:
            continue
    return None


def readable_headers(headers: Headers) -> dict[str, str | None]:
    """Header name -> readable value; of a name that stands twice, the last."""
    return {name: readable(value) for name, value in headers}


def decoded(topic: str, value: bytes | None) -> Any:
    """The JSON of a body with its vectors cut short, or None where it is none, or too deep to be printed."""
    if value is None:
        return None
    try:
        fields = orjson.loads(value)
        # NOTE: orjson reads 1,024 levels and writes 254, some of which are around the body then.
        orjson.dumps(functools.reduce(lambda inner, _: [inner], range(_LEVELS_AROUND), fields))
    except (orjson.JSONDecodeError, TypeError):
        return None
    if not isinstance(fields, Mapping):
        return fields
    vectors = _vectors(topic)
    return {name: _short(one) if name in vectors else _shown(name, one) for name, one in fields.items()}


@functools.cache
def _vectors(topic: str) -> frozenset[str]:
    return frozenset(vector_fields(TOPICS[topic].value) if topic in TOPICS else ())


def _shown(name: str, field: Any) -> Any:
    if not isinstance(field, str):
        return field
    if name == _FP32_FIELD:
        with suppress(ValueError):
            return _listed(np.frombuffer(base64.b64decode(field, validate=True), "<f4").tolist())
    return field if len(field) <= _SHOWN_BYTES else f"{field[:_SHOWN_BYTES]} … ({len(field):,} characters)"


def _short(vector: Any) -> Any:
    try:
        return _listed(decode_fp16(vector) if isinstance(vector, str) else tuple(map(float, vector)))
    except (TypeError, ValueError):
        return vector


def _listed(numbers: Sequence[float]) -> str:
    shown = ", ".join(f"{one:.4g}" for one in numbers[:_SHOWN_NUMBERS])
    return f"[{shown}{', …' if len(numbers) > _SHOWN_NUMBERS else ''}] ({len(numbers)} dimensions)"
