import base64

import numpy as np
import orjson
import pytest

from schemas.cloudevents import iso
from schemas.codec import encode
from streams.message_text import decoded, escaped, json_line, readable, readable_headers
from tests.schemas.examples import pin_changed, pin_embedded


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (None, None),
        (b"", ""),
        (b"7", "7"),
        ("Crème".encode(), "Crème"),
        (b"a\nb\x1b[31m", "a\\nb\\u001b[31m"),
        (b"\x00\xff", "0x00ff"),
        (b"x" * 2_000, "x" * 2_000),
        (b"x" * 2_001, "x" * 2_000 + " … (2,001 bytes)"),
        ("é".encode() * 1_500 + b"!", "é" * 1_000 + " … (3,001 bytes)"),
        (b"x" + "é".encode() * 1_500, "x" + "é" * 999 + " … (3,001 bytes)"),
    ],
)
def test_bytes_are_shown_as_text_where_they_are_text(raw: bytes | None, text: str | None) -> None:
    assert readable(raw) == text


def test_headers_are_shown_too() -> None:
    assert readable_headers([("a", b"1"), ("b", None), ("c", b"\xff")]) == {"a": "1", "b": None, "c": "0xff"}


def test_vectors_are_cut_short() -> None:
    body = decoded("pin.embedded.v1", encode(pin_embedded()))
    array = decoded("pin.changed.v1", b'{"content_embedding": [1, 2, 3, 4, 5]}')

    assert body["vector"] == "[0.5, -0.25, 0, 1] (4 dimensions)"
    assert body["pin_id"] == 7
    assert array == {"content_embedding": "[1, 2, 3, 4, …] (5 dimensions)"}


def test_the_logged_query_vector_and_long_texts_are_cut_short_too() -> None:
    vector = base64.b64encode(np.arange(5, dtype="<f4").tobytes()).decode()

    body = decoded("ranking.logged.v1", orjson.dumps({"query_vector": vector, "title": "x" * 2_001}))

    assert body == {
        "query_vector": "[0, 1, 2, 3, …] (5 dimensions)",
        "title": "x" * 2_000 + " … (2,001 characters)",
    }
    assert decoded("ranking.logged.v1", b'{"query_vector": "!!"}') == {"query_vector": "!!"}


def test_what_is_no_vector_or_no_json_is_left_as_it_is() -> None:
    assert decoded("pin.changed.v1", b'{"content_embedding": "!!"}') == {"content_embedding": "!!"}
    assert decoded("pin.changed.v1", b'{"content_embedding": [[1]]}') == {"content_embedding": [[1]]}
    assert decoded("pin.changed.v1", b"[1]") == [1]
    assert decoded("pin.changed.v1", b"{") is None
    assert decoded("pin.changed.v1", None) is None
    assert decoded("of.others.v1", encode(pin_changed())) == {
        "pin_id": 7,
        "occurred_at_ms": 1_500_000_000_000,
    }


def test_moments_are_in_utc() -> None:
    assert (iso(1_500_000_000_007), iso(-1)) == ("2017-07-14T02:40:00.007Z", "")


@pytest.mark.parametrize(("levels", "is_shown"), [(240, True), (254, False), (300, False), (1_000, False)])
def test_what_is_too_deep_to_be_written_again_is_not_decoded(levels: int, is_shown: bool) -> None:
    raw = b'{"a":' + b"[" * levels + b"]" * levels + b"}"

    body = decoded("pin.changed.v1", raw)

    assert (body is not None) == is_shown
    assert orjson.dumps([{"letter": {"body": body}}])


def test_what_would_move_the_cursor_is_escaped() -> None:
    assert escaped("Crème [red]") == "Crème [red]"
    assert escaped("a\x1b[2J\x9b") == "a\\u001b[2J\\u009b"
    assert json_line({"é\x9b": ["\x7f", 1.5]}) == '{"é\\u009b":["\\u007f",1.5]}'
    assert orjson.loads(json_line({"é\x9b": ["\x7f", 1.5]})) == {"é\x9b": ["\x7f", 1.5]}
