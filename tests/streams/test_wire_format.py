import base64
import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.avro import avro_schema, avro_text
from schemas.codec import MAX_EVENT_BYTES, decode, encode
from schemas.errors import DeadLetterReason, InvalidMessage, RetryableError
from schemas.events import EngagementObserved, PinChanged
from schemas.topics import TOPICS
from schemas.vectors import CONTENT_DIMENSION, encode_fp16
from streams.wire_format import WireFormats, WriterSchema
from tests.schemas.examples import FULL_PIN_CHANGED, pin_changed
from tests.streams.registry_double import Schemas, framed

Avro = dict[str, Any]


def avro(schema: Avro, record: Avro) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), record)
    return stream.getvalue()


def reads_avro(schema: Avro, payload: bytes, *references: tuple[str, str]) -> PinChanged:
    source = Schemas(_1=WriterSchema("AVRO", json.dumps(schema), references))
    return decode(PinChanged, WireFormats(source).to_json(PinChanged, framed(1, payload)))


def record(*fields: tuple[str, Any]) -> Avro:
    """A writer's schema with the two required fields and these."""
    named = [("pin_id", "long"), ("occurred_at_ms", "long"), *fields]
    return {"type": "record", "name": "Theirs", "fields": [{"name": n, "type": t} for n, t in named]}


PIN: Avro = {"pin_id": 7, "occurred_at_ms": 1_500_000_000_000}


def test_a_change_that_sets_every_field_survives_avro() -> None:
    written = FULL_PIN_CHANGED | {
        "content_embedding": base64.b64decode(FULL_PIN_CHANGED["content_embedding"])
    }

    assert reads_avro(avro_schema(PinChanged), avro(avro_schema(PinChanged), written)) == PinChanged(
        **FULL_PIN_CHANGED
    )


def test_a_change_that_sets_nothing_says_nothing_after_avro() -> None:
    read = reads_avro(avro_schema(PinChanged), avro(avro_schema(PinChanged), PIN))

    assert read.model_dump(exclude_none=True) == PIN


def test_a_default_of_the_declaration_is_the_avro_default() -> None:
    schema = avro_schema(EngagementObserved)
    payload = avro(schema, PIN | {"user_id": 3, "kind": "click"})
    source = Schemas(_1=WriterSchema("AVRO", avro_text(EngagementObserved)))

    read = decode(EngagementObserved, WireFormats(source).to_json(EngagementObserved, framed(1, payload)))

    assert (read.quantity, read.value_micros, read.kind) == (1, 0, "click")


@pytest.mark.parametrize("spelling", [encode_fp16([0.5] * CONTENT_DIMENSION), [0.5] * CONTENT_DIMENSION])
def test_a_vector_may_be_written_as_text_or_as_numbers_in_avro(spelling: Any) -> None:
    payload = avro(avro_schema(PinChanged), PIN | {"content_embedding": spelling})

    assert reads_avro(avro_schema(PinChanged), payload).content_embedding == encode_fp16(
        [0.5] * CONTENT_DIMENSION
    )


def test_the_writers_schema_is_what_reads_not_ours() -> None:
    schema = record(("theirs_alone", "string"), ("price_micros", "int"))
    schema["fields"].reverse()

    read = reads_avro(schema, avro(schema, PIN | {"theirs_alone": "x", "price_micros": 5}))

    assert read == pin_changed(price_micros=5)


def test_an_enum_and_milliseconds_of_the_writer_are_read() -> None:
    status = {"type": "enum", "name": "Status", "symbols": ["active", "paused"]}
    schema = record(
        ("status", status), ("starts_at_ms", ["null", {"type": "long", "logicalType": "timestamp-millis"}])
    )
    bare = record(("status", status), ("starts_at_ms", ["null", "long"]))

    read = reads_avro(schema, avro(bare, PIN | {"status": "paused", "starts_at_ms": 1_400_000_000_000}))

    assert (read.status, read.starts_at_ms) == ("paused", 1_400_000_000_000)


@pytest.mark.parametrize("logical", ["timestamp-micros", "date", "decimal"])
def test_a_logical_type_that_would_be_misread_is_refused(logical: str) -> None:
    base = "int" if logical == "date" else "bytes" if logical == "decimal" else "long"
    schema = record(("price_micros", {"type": base, "logicalType": logical, "precision": 4}))

    with pytest.raises(InvalidMessage, match=f"price_micros is written as {logical}"):
        reads_avro(schema, b"")


def test_a_schema_may_refer_to_another() -> None:
    status = json.dumps({"type": "enum", "name": "their.Status", "symbols": ["active", "paused"]})
    schema = record(("status", "their.Status"))
    whole = record(("status", json.loads(status)))

    assert (
        reads_avro(schema, avro(whole, PIN | {"status": "paused"}), ("their.Status", status)).status
        == "paused"
    )


def doubled(levels: int) -> Avro:
    """A record of two records of two records …, the innermost of which has no fields."""
    inner: Any = {"type": "record", "name": "L0", "fields": []}
    for level in range(1, levels + 1):
        fields = [{"name": "a", "type": inner}, {"name": "b", "type": f"L{level - 1}"}]
        inner = {"type": "record", "name": f"L{level}", "fields": fields}
    return record(("nothing", inner))


HOSTILE: dict[str, Avro] = {
    "a type inside itself": record(("next", ["null", "Theirs"])),
    "a type inside another inside itself": record(
        (
            "a",
            {
                "type": "record",
                "name": "A",
                "fields": [{"name": "b", "type": {"type": "array", "items": "A"}}],
            },
        )
    ),
    "an array of nulls": record(("nothing", {"type": "array", "items": "null"})),
    "an array of empty records": record(
        ("nothing", {"type": "array", "items": {"type": "record", "name": "E", "fields": []}})
    ),
    "an array of fixed nothing": record(
        ("nothing", {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}})
    ),
    "records of nothing, doubled": doubled(40),
    "a fixed nothing": record(("nothing", {"type": "fixed", "name": "F", "size": 0})),
    "over a thousand fields": record(*((f"f{number}", "null") for number in range(999))),
    "no record": {"type": "array", "items": "long"},
    "an unknown type": record(("x", "no-such-type")),
    "an empty object": {},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_avro_schema_that_is_hostile_or_none_is_refused_before_it_reads(name: str) -> None:
    # 2^40 items that take no bytes: reading them would never end.
    with pytest.raises(InvalidMessage) as refused:
        reads_avro(HOSTILE[name], b"\x0e\x00\x80\x80\x80\x80\x80\x80\x80\x01\x00")

    assert refused.value.reason is DeadLetterReason.UNKNOWN_VERSION


def test_a_record_of_nulls_and_a_choice_of_an_empty_record_are_read() -> None:
    empty = {"type": "record", "name": "E", "fields": []}
    schema = record(("nothing", "null"), ("none", {"type": "null"}), ("either", ["null", empty]))

    assert (
        reads_avro(schema, avro(schema, PIN | {"nothing": None, "none": None, "either": {}})) == pin_changed()
    )


def test_a_thousand_fields_are_read() -> None:
    schema = record(*((f"f{number}", "null") for number in range(998)))

    assert reads_avro(schema, avro(schema, PIN)) == pin_changed()


@pytest.mark.parametrize("text", ["", "{", "7", '"long"', "[" * 5_000, "\x00"])
def test_text_that_is_no_avro_schema_is_refused(text: str) -> None:
    source = Schemas(_1=WriterSchema("AVRO", text))

    with pytest.raises(InvalidMessage) as refused:
        WireFormats(source).to_json(PinChanged, framed(1, b"\x02\x02"))

    assert refused.value.reason is DeadLetterReason.UNKNOWN_VERSION


def test_a_cut_avro_record_and_one_with_more_behind_it_are_refused() -> None:
    payload = avro(avro_schema(PinChanged), FULL_PIN_CHANGED)

    for odd in (payload[:-1], payload + b"\x00", b""):
        with pytest.raises(InvalidMessage) as refused:
            reads_avro(avro_schema(PinChanged), odd)
        assert refused.value.reason is DeadLetterReason.DECODE_ERROR


def test_bytes_where_text_belongs_are_refused() -> None:
    schema = record(("title", "bytes"))

    with pytest.raises(InvalidMessage) as refused:
        reads_avro(schema, avro(schema, PIN | {"title": b"\xff"}))

    assert refused.value.reason is DeadLetterReason.SCHEMA_INVALID


@given(st.binary(max_size=200))
def test_garbage_under_an_avro_schema_is_an_invalid_message_or_json(payload: bytes) -> None:
    formats = WireFormats(Schemas(_1=WriterSchema("AVRO", avro_text(PinChanged))))
    try:
        json.loads(formats.to_json(PinChanged, framed(1, payload)))
    except InvalidMessage as invalid:
        assert invalid.reason in (DeadLetterReason.DECODE_ERROR, DeadLetterReason.SCHEMA_INVALID)


def test_framed_json_loses_its_frame() -> None:
    formats = WireFormats(Schemas(_9=WriterSchema("JSON", "{}")))

    assert formats.to_json(PinChanged, framed(9, encode(pin_changed()))) == encode(pin_changed())


def test_plain_json_is_given_back_and_the_registry_not_asked() -> None:
    source = Schemas()

    assert WireFormats(source).to_json(PinChanged, b"{}") == b"{}"
    assert source.asked == []


def test_a_schema_is_fetched_once_per_id() -> None:
    source = Schemas(_1=WriterSchema("AVRO", avro_text(PinChanged)), _2=WriterSchema("JSON", "{}"))
    formats = WireFormats(source)
    value = framed(1, avro(avro_schema(PinChanged), PIN))

    for one in (value, framed(2, b"{}"), value, value):
        formats.to_json(PinChanged, one)

    assert source.asked == [1, 2]


def test_a_schema_that_cannot_be_read_is_fetched_once_too() -> None:
    source = Schemas(_1=WriterSchema("THRIFT", "struct"))
    formats = WireFormats(source)

    for _ in range(2):
        with pytest.raises(InvalidMessage, match="schema 1 is THRIFT"):
            formats.to_json(PinChanged, framed(1, b""))

    assert source.asked == [1]


@pytest.mark.parametrize("short", [b"\x00", b"\x00\x00\x00\x00"])
def test_a_frame_without_a_schema_id_is_refused(short: bytes) -> None:
    with pytest.raises(InvalidMessage, match="decode_error: framed, but only"):
        WireFormats(Schemas()).to_json(PinChanged, short)


def test_a_frame_that_is_too_large_is_refused_unread() -> None:
    source = Schemas()

    with pytest.raises(InvalidMessage, match="too_large"):
        WireFormats(source).to_json(PinChanged, framed(1, bytes(MAX_EVENT_BYTES)))

    assert source.asked == []


def test_the_schema_id_is_big_endian() -> None:
    source = Schemas(_258=WriterSchema("JSON", "{}"))

    assert WireFormats(source).to_json(PinChanged, b"\x00\x00\x00\x01\x02{}") == b"{}"


def test_a_batch_without_a_frame_is_left_alone() -> None:
    assert WireFormats(Schemas()).normalise(PinChanged, [b"{}", b"x", b"", None]) is None
    assert WireFormats(Schemas()).normalise(PinChanged, []) is None


@pytest.mark.parametrize("others", [[], [None], [b""], [b"{}", None]])
def test_one_frame_among_others_is_found_and_only_it_is_changed(others: list[bytes | None]) -> None:
    formats = WireFormats(Schemas(_1=WriterSchema("JSON", "{}")))

    unframed = formats.normalise(PinChanged, [*others, framed(1, b"{1}"), framed(5, b"")])

    assert unframed is not None
    assert unframed.values[:-1] == [*others, b"{1}"]
    assert {row: one.reason for row, one in unframed.refused.items()} == {
        len(others) + 1: DeadLetterReason.UNKNOWN_VERSION
    }


def test_a_registry_that_is_away_is_no_reason_for_a_dead_letter() -> None:
    source = Schemas(_1=WriterSchema("JSON", "{}"))
    source.away, formats = True, WireFormats(source)

    with pytest.raises(RetryableError):
        formats.normalise(PinChanged, [b"{}", framed(1, b"{}")])
    source.away = False
    unframed = formats.normalise(PinChanged, [b"{}", framed(1, b"{}")])

    assert unframed is not None and unframed.values == [b"{}", b"{}"]


@pytest.mark.parametrize("topic", TOPICS)
def test_every_topic_has_an_avro_schema(topic: str) -> None:
    fastavro.parse_schema(avro_schema(TOPICS[topic].value))
