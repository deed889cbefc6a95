import pytest

from schemas.avro import avro_schema, avro_text
from schemas.codec import encode
from schemas.errors import DeadLetterReason, RetryableError
from schemas.events import PinChanged
from streams.decoding import decode_source
from streams.framed_batches import decode_framed
from streams.wire_format import WireFormats, WriterSchema
from tests.schemas.examples import pin_changed
from tests.streams.batches import events_batch, source_batch
from tests.streams.registry_double import Schemas, framed
from tests.streams.test_protobuf_values import FIRST, NO_TEXT, proto2
from tests.streams.test_wire_format import PIN, avro


def formats(**by_id: WriterSchema) -> WireFormats:
    return WireFormats(Schemas(_1=WriterSchema("AVRO", avro_text(PinChanged)), **by_id))


def framed_price(pin: int, price: int) -> bytes:
    return framed(1, avro(avro_schema(PinChanged), PIN | {"pin_id": pin, "price_micros": price}))


def test_framed_rows_give_the_columns_that_plain_ones_give() -> None:
    plain = [pin_changed(pin_id=pin, price_micros=pin * 10) for pin in range(1, 5)]
    keys = [b"1", b"2", b"3", b"4"]
    values = [framed_price(1, 10), encode(plain[1]), framed_price(3, 30), encode(plain[3])]

    decoded = decode_framed(source_batch(keys, values), formats())
    wanted = decode_source(events_batch(plain))

    assert decoded.rows.tolist() == [0, 1, 2, 3] and decoded.letters == []
    assert decoded.changes.pin_id.tolist() == [1, 2, 3, 4]
    price = decoded.changes.columns["price_micros"]
    assert price.values.tolist() == wanted.changes.columns["price_micros"].values.tolist() == [10, 20, 30, 40]


def test_letters_keep_the_original_bytes_place_and_offset_of_a_framed_message() -> None:
    wrong_key, no_price = framed_price(2, 20), framed_price(3, -1)
    unknown, plain_bad = framed(9, b""), b"x"
    values = [unknown, framed_price(1, 10), wrong_key, plain_bad, no_price, None, framed_price(6, 60)]
    keys = [b"0", b"1", b"77", b"3", b"3", b"5", b"6"]

    decoded = decode_framed(source_batch(keys, values, first_offset=50), formats())

    assert decoded.rows.tolist() == [1, 6]
    assert decoded.changes.pin_id.tolist() == [1, 6]
    assert [(one.row, one.offset, one.key, one.value, one.reason) for one in decoded.letters] == [
        (0, 50, b"0", unknown, DeadLetterReason.UNKNOWN_VERSION),
        (2, 52, b"77", wrong_key, DeadLetterReason.KEY_MISMATCH),
        (3, 53, b"3", plain_bad, DeadLetterReason.DECODE_ERROR),
        (4, 54, b"3", no_price, DeadLetterReason.SCHEMA_INVALID),
        (5, 55, b"5", None, DeadLetterReason.DECODE_ERROR),
    ]


def test_a_string_that_is_no_text_makes_one_letter_and_the_other_rows_go_on() -> None:
    by_proto2 = formats(_2=WriterSchema("PROTOBUF", proto2("title")))
    values = [framed_price(1, 10), framed(2, FIRST + NO_TEXT), framed_price(3, 30)]

    decoded = decode_framed(source_batch([b"1", b"7", b"3"], values), by_proto2)

    assert decoded.rows.tolist() == [0, 2]
    assert [(one.row, one.value, one.reason) for one in decoded.letters] == [
        (1, values[1], DeadLetterReason.SCHEMA_INVALID)
    ]


def test_the_event_type_of_the_right_row_is_asked_for() -> None:
    batch = source_batch(
        [b"1", b"1"], [framed(9, b""), b"x"], event_type=lambda row: ("pin.changed.v1", "other.v1")[row]
    )

    first, second = decode_framed(batch, formats()).letters

    assert first.message == "no schema 9"
    assert (second.reason, second.message[:19]) == (DeadLetterReason.UNKNOWN_VERSION, "ce_type is other.v1")


def test_without_a_registry_a_frame_is_no_json() -> None:
    (letter,) = decode_framed(source_batch([b"1"], [framed_price(1, 10)]), None).letters

    assert letter.reason is DeadLetterReason.DECODE_ERROR


def test_a_batch_waits_as_a_whole_while_the_registry_is_away() -> None:
    source = Schemas()
    source.away = True

    with pytest.raises(RetryableError):
        decode_framed(source_batch([b"1", b"2"], [b"x", framed(1, b"")]), WireFormats(source))
