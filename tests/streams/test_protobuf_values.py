import base64
import json
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import decode
from schemas.errors import DeadLetterReason, InvalidMessage
from schemas.events import EngagementObserved, PinChanged
from schemas.logs import RankingLog
from schemas.protobuf import file_descriptor, proto_text
from schemas.skew import EmbeddingsCounted
from schemas.vectors import CONTENT_DIMENSION, encode_fp16
from streams.protobuf_values import protobuf_reader
from tests.schemas.examples import FULL_PIN_CHANGED, VERSION_A, pin_changed

FIRST = b"\x00"
"""Message indexes [0], as they are written."""

DOUBLE, INT64, BOOL, TEXT, MESSAGE, BYTES, INT32, ENUM = 1, 3, 8, 9, 11, 12, 5, 14
PIN: dict[str, Any] = {"pin_id": 7, "occurred_at_ms": 1_500_000_000_000}


def base64_of(descriptor: bytes) -> str:
    return base64.b64encode(descriptor).decode("ascii")


def message_class(descriptor: bytes, name: str) -> Any:
    pool = DescriptorPool()
    pool.AddSerializedFile(descriptor)
    return GetMessageClass(pool.FindMessageTypeByName(name))


def theirs(*fields: tuple[str, int, str], optional: bool = True, name: str = "Theirs") -> Any:
    """A writer's file with one message: (name, type, "one" or "many"), numbers from 11 on."""
    file = descriptor_pb2.FileDescriptorProto(name="theirs.proto", package="their", syntax="proto3")
    message = file.message_type.add(name=name)
    named = [("pin_id", INT64, "one"), ("occurred_at_ms", INT64, "one"), *fields]
    for number, (field, code, many) in enumerate(named, start=11):
        added = message.field.add(name=field, number=number, type=code, label=3 if many == "many" else 1)
        if optional and many == "one":
            added.proto3_optional, added.oneof_index = True, len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field}")
    return file


def reads(file: Any, **fields: Any) -> PinChanged:
    message = message_class(file.SerializeToString(), "their.Theirs")(**(PIN | fields))
    read = protobuf_reader(PinChanged, base64_of(file.SerializeToString()), ())
    return decode(PinChanged, read(FIRST + message.SerializeToString()))


def ours(**fields: Any) -> bytes:
    made = message_class(file_descriptor(PinChanged), "skewless.PinChanged")(**(PIN | fields))
    return bytes(made.SerializeToString())


def read_ours(payload: bytes) -> PinChanged:
    return decode(PinChanged, protobuf_reader(PinChanged, proto_text(PinChanged), ())(FIRST + payload))


def test_a_change_that_sets_every_field_survives_protobuf() -> None:
    lists = ("display_stores", "mailer_stores", "coupons", "target_ages")
    vector = {"fp16": base64.b64decode(FULL_PIN_CHANGED["content_embedding"])}
    fields = FULL_PIN_CHANGED | {name: {"values": FULL_PIN_CHANGED[name]} for name in lists}

    assert read_ours(ours(**(fields | {"content_embedding": vector}))) == PinChanged(**FULL_PIN_CHANGED)


def test_a_change_that_sets_nothing_says_nothing_after_protobuf() -> None:
    assert read_ours(ours()).model_dump(exclude_none=True) == PIN


def test_a_zero_a_false_and_an_empty_list_are_values_and_not_absent() -> None:
    read = read_ours(ours(price_micros=0, interest_targeting=False, target_ages={"values": []}))

    assert read == pin_changed(price_micros=0, interest_targeting=False, target_ages=[])


def test_a_vector_may_be_numbers() -> None:
    read = read_ours(ours(content_embedding={"numbers": [0.5] * CONTENT_DIMENSION}))

    assert read.content_embedding == encode_fp16([0.5] * CONTENT_DIMENSION)


def test_a_required_field_that_is_absent_is_missed_by_name() -> None:
    with pytest.raises(InvalidMessage, match="schema_invalid: pin_id"):
        read_ours(ours(pin_id=None))


def test_nested_records_lists_and_maps_are_read() -> None:
    counted = message_class(file_descriptor(EmbeddingsCounted), "skewless.EmbeddingsCounted")(
        worker="w", tier="t", from_ms=1, until_ms=2, pins=3, rows={VERSION_A: 3}
    )
    read = protobuf_reader(EmbeddingsCounted, proto_text(EmbeddingsCounted), ())
    assert decode(EmbeddingsCounted, read(FIRST + counted.SerializeToString())).rows == {VERSION_A: 3}

    log = message_class(file_descriptor(RankingLog), "skewless.RankingLog")(
        request_id="r", ads=[{"pin_id": 7, "dot": 0.5}, {"pin_id": 8, "dot": -0.5}]
    )
    read = protobuf_reader(RankingLog, proto_text(RankingLog), ())
    assert json.loads(read(FIRST + log.SerializeToString())) == {
        "request_id": "r",
        "stages": [],
        "version_mix": {},
        "ads": [{"pin_id": 7, "dot": 0.5}, {"pin_id": 8, "dot": -0.5}],
    }


def test_fields_are_taken_by_name_whatever_their_numbers() -> None:
    file = theirs(("price_micros", INT32, "one"), ("theirs_alone", TEXT, "one"))

    assert reads(file, price_micros=5, theirs_alone="x") == pin_changed(price_micros=5)


def test_required_fields_may_lack_presence() -> None:
    assert reads(theirs(optional=False)) == pin_changed()


def test_an_optional_field_without_presence_is_refused_because_zero_would_be_lost() -> None:
    with pytest.raises(InvalidMessage, match="schema_invalid: price_micros is written without presence"):
        reads(theirs(("price_micros", INT64, "one"), optional=False), price_micros=0)


def test_an_optional_list_without_presence_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="target_ages is written without presence"):
        reads(theirs(("target_ages", TEXT, "many")))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("price_micros", TEXT),
        ("price_micros", DOUBLE),
        ("title", BYTES),
        ("interest_targeting", INT64),
        ("content_embedding", INT64),
        ("coupons", INT64),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(name: str, code: int) -> None:
    with pytest.raises(InvalidMessage, match=f"schema_invalid: {name} is written"):
        reads(theirs((name, code, "one")))


def test_a_vector_may_be_bytes_or_text() -> None:
    text = encode_fp16([0.5] * CONTENT_DIMENSION)
    for code, value in ((BYTES, base64.b64decode(text)), (TEXT, text)):
        assert (
            reads(theirs(("content_embedding", code, "one")), content_embedding=value).content_embedding
            == text
        )


def test_a_wrapped_number_is_read() -> None:
    file = theirs()
    file.dependency.append("google/protobuf/wrappers.proto")
    file.message_type[0].field.add(
        name="price_micros", number=50, type=MESSAGE, type_name=".google.protobuf.Int64Value", label=1
    )
    read = protobuf_reader(PinChanged, base64_of(file.SerializeToString()), ())
    pool = DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    made = GetMessageClass(pool.FindMessageTypeByName("their.Theirs"))(**PIN)
    made.price_micros.value = 0

    assert decode(PinChanged, read(FIRST + made.SerializeToString())) == pin_changed(price_micros=0)


def proto2(name: str) -> str:
    """A proto2 writer's file: its strings are not checked to be UTF-8, neither written nor read."""
    file = theirs((name, TEXT, "one"), optional=False)
    file.syntax = "proto2"
    return base64_of(file.SerializeToString())


# pin_id = 11: 7, occurred_at_ms = 12: 1, field 13: two bytes that are no UTF-8.
NO_TEXT = b"\x58\x07" + b"\x60\x01" + b"\x6a\x02\xff\xfe"


@pytest.mark.parametrize("name", ["title", "content_embedding"])
def test_a_string_that_is_no_text_is_refused(name: str) -> None:
    read = protobuf_reader(PinChanged, proto2(name), ())

    with pytest.raises(InvalidMessage, match="schema_invalid: holds what JSON cannot"):
        read(FIRST + NO_TEXT)


def test_a_map_whose_key_is_no_text_is_refused() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="theirs.proto", package="their", syntax="proto2")
    message = file.message_type.add(name="Theirs")
    entry = message.nested_type.add(name="RowsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=TEXT, label=1)
    entry.field.add(name="value", number=2, type=INT64, label=1)
    message.field.add(name="rows", number=1, type=MESSAGE, label=3, type_name=".their.Theirs.RowsEntry")
    read = protobuf_reader(EmbeddingsCounted, base64_of(file.SerializeToString()), ())

    with pytest.raises(InvalidMessage, match="schema_invalid: holds what JSON cannot"):
        read(FIRST + b"\x0a\x04\x0a\x02\xff\xfe")


def test_a_wrapper_of_many_numbers_is_refused() -> None:
    wrapper = descriptor_pb2.FileDescriptorProto(name="odd.proto", package="google.protobuf", syntax="proto3")
    wrapper.message_type.add(name="Numbers").field.add(name="value", number=1, type=INT64, label=3)
    file = theirs()
    file.dependency.append("odd.proto")
    file.message_type[0].field.add(
        name="price_micros", number=50, type=MESSAGE, type_name=".google.protobuf.Numbers", label=1
    )
    read = protobuf_reader(
        PinChanged,
        base64_of(file.SerializeToString()),
        [("odd.proto", base64_of(wrapper.SerializeToString()))],
    )

    with pytest.raises(InvalidMessage, match="schema_invalid: price_micros is written"):
        read(FIRST)


def test_a_schema_may_import_another() -> None:
    other = descriptor_pb2.FileDescriptorProto(name="another name", package="their", syntax="proto3")
    other.message_type.add(name="Prices").field.add(name="values", number=1, type=INT64, label=3)
    file = theirs()
    file.dependency.append("lists.proto")
    file.message_type[0].field.add(
        name="coupons", number=50, type=MESSAGE, type_name=".their.Prices", label=1
    )
    read = protobuf_reader(
        PinChanged,
        base64_of(file.SerializeToString()),
        [("lists.proto", base64_of(other.SerializeToString()))],
    )

    # pin_id = 11, occurred_at_ms = 12, coupons = 50 {values = 1 [1, 2, 3]}, byte by byte.
    payload = b"\x58\x07" + b"\x60\x01" + b"\x92\x03\x05\x0a\x03\x01\x02\x03"
    assert decode(PinChanged, read(FIRST + payload)).coupons == [1, 2, 3]


@pytest.mark.parametrize("indexes", [b"\x00", b"\x02\x00"])
def test_the_first_message_has_two_spellings(indexes: bytes) -> None:
    read = protobuf_reader(PinChanged, proto_text(PinChanged), ())

    assert decode(PinChanged, read(indexes + ours())) == pin_changed()


def test_a_message_further_down_or_inside_another_is_found() -> None:
    file = theirs(name="Other")
    inner = file.message_type.add(name="Outer")
    inner.nested_type.append(file.message_type[0])
    read = protobuf_reader(PinChanged, base64_of(file.SerializeToString()), ())
    # [1, 0]: the count 2, then 1 and 0, zigzag.
    assert json.loads(read(b"\x04\x02\x00" + b"\x58\x07" + b"\x60\x01")) == {"pin_id": 7, "occurred_at_ms": 1}


@pytest.mark.parametrize(
    "indexes",
    [b"", b"\x80", b"\x80\x80\x80\x80\x80\x80", b"\x02\x0e", b"\x02\x01", b"\x01", b"\x04\x00\x0e", b"\x7e"],
)
def test_message_indexes_that_lead_nowhere_are_refused(indexes: bytes) -> None:
    with pytest.raises(InvalidMessage) as refused:
        protobuf_reader(PinChanged, proto_text(PinChanged), ())(indexes)

    assert refused.value.reason is DeadLetterReason.DECODE_ERROR


@pytest.mark.parametrize("payload", [b"\x08", b"\x0b", b"\xff" * 12, b"\x1a\x05ab", b"\x1a\x01\xff"])
def test_a_payload_that_does_not_fit_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidMessage) as refused:
        read_ours(payload)

    assert refused.value.reason is DeadLetterReason.DECODE_ERROR


@given(st.binary(max_size=100))
def test_garbage_under_a_protobuf_schema_is_an_invalid_message_or_json(payload: bytes) -> None:
    read = protobuf_reader(PinChanged, proto_text(PinChanged), ())
    try:
        json.loads(read(payload))
    except InvalidMessage as invalid:
        assert invalid.reason is DeadLetterReason.DECODE_ERROR


@pytest.mark.parametrize(
    "text", ["", 'syntax = "proto3"; message Other {}', "AAAA", base64_of(b"\x0a\x01x\x1a\x01y")]
)
def test_a_schema_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        protobuf_reader(PinChanged, text, ())(FIRST)

    assert refused.value.reason in (DeadLetterReason.UNKNOWN_VERSION, DeadLetterReason.DECODE_ERROR)


def test_our_text_is_known_without_its_comments_and_layout() -> None:
    text = proto_text(EngagementObserved).replace("  ", "\t") + "\n/* registered\nby */ // somebody\n"
    made = message_class(file_descriptor(EngagementObserved), "skewless.EngagementObserved")(user_id=3)

    assert json.loads(protobuf_reader(EngagementObserved, text, ())(FIRST + made.SerializeToString())) == {
        "user_id": 3
    }
