"""Events with something done to them: by field, and byte by byte."""

import json
import random
from collections.abc import Iterator

from schemas.codec import encode
from schemas.events import PinChanged
from tests.schemas.examples import FULL_PIN_CHANGED

_VALUES = [
    None, True, False, 0, -1, 7, 1.0, 1.5, 1e30, 2**31,
    2**53, 2**63, 2**64, 10**30, "", "x", "7", "true", "[7]",
    "a\u0000b", "\u00e9\U0001f600", "x" * 301, [], [1], [1] * 10, [1] * 11, [None] * 10, [1.5] * 10, ["65+"],
    ["70+"], [-1] * 10, [2**31] * 10, [0.5] * 48, [0.5] * 47, [1e9] * 48, {}, {"a": [1]}, "active", "gone",
    "!!!", "AAAA", "fH4=" * 32, "A" * 128,
]  # fmt: skip
_TOKENS = [
    b"null", b"{", b"}", b"[", b"]", b'"', b",", b":", b"1e999", b"-1", b"true",
    b"\xff", b"\x00", b"{}", b"1.5",
    b"99999999999999999999", b"\\u0000", b"\\ud800", b" ", b"\n", b"\r\n", b'"pin_id"', b"NaN", b"[[[[[[[[",
    b"\xef\xbb\xbf", b"/**/", b"'",
]  # fmt: skip


def mutated_events(count: int, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of `count` events; about a third are untouched, and some changes keep an event valid."""
    rng = random.Random(seed)
    for number in range(count):
        fields = {name: one for name, one in FULL_PIN_CHANGED.items() if rng.random() < 0.5}
        fields |= {"pin_id": rng.randrange(500), "occurred_at_ms": 1_000 + number}
        key = b"%d" % fields["pin_id"]
        way = rng.random()
        if way < 0.33:
            yield key, encode(PinChanged(**fields))
        elif way < 0.66:
            yield key, _by_field(rng, fields)
        else:
            yield key, _by_byte(rng, encode(PinChanged(**fields)))


def _by_field(rng: random.Random, fields: dict[str, object]) -> bytes:
    name = rng.choice([*FULL_PIN_CHANGED, "unheard_of", "Pin_Id"])
    if rng.random() < 0.1:
        fields.pop(name, None)
    else:
        fields[name] = rng.choice(_VALUES)
    indent = 1 if rng.random() < 0.05 else None
    return json.dumps(fields, indent=indent, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _by_byte(rng: random.Random, value: bytes) -> bytes:
    for _ in range(rng.randint(1, 4)):
        place, way = rng.randrange(len(value) + 1), rng.random()
        if way < 0.3:
            value = value[:place] + rng.choice(_TOKENS) + value[place:]
        elif way < 0.6:
            value = value[:place] + bytes([rng.randrange(256)]) + value[place + 1 :]
        elif way < 0.8:
            value = value[:place] + value[place + rng.randint(1, 30) :]
        else:
            value = value[:place] + rng.choice(_TOKENS) + value[place + rng.randint(0, 20) :]
    return value
