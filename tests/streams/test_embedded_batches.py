import orjson
import pytest

from features.pin_state import STATUS_CODES
from schemas.codec import encode
from schemas.embeddings import PinEmbedded, embedded_key
from schemas.errors import DeadLetterReason
from schemas.vectors import decode_fp16, encode_fp16
from streams.embedded_batches import DecodedRows, EmbeddedDecoder, Message
from tests.schemas.examples import VERSION_A, VERSION_B, pin_embedded

LIVE = {VERSION_A: 4}


def message(row: PinEmbedded, value: bytes | None = None, offset: int = 0) -> Message:
    return Message(
        0, offset, 5, embedded_key(row.pin_id, row.tower_version), encode(row) if value is None else value
    )


def decoded(*messages: Message) -> DecodedRows:
    return EmbeddedDecoder().decode(messages, LIVE)


def reasons(rows: DecodedRows) -> list[DeadLetterReason]:
    return [letter.reason for letter in rows.letters]


def test_a_row_becomes_columns() -> None:
    row = pin_embedded(
        status="deleted", title="Milk", advertiser_id=3, price_micros=4, bid_micros=5, daily_budget_micros=6,
        target_ages=33, starts_at_ms=7, ends_at_ms=8,
    )  # fmt: skip
    batch = decoded(message(row)).batch
    fields = batch.attributes[0]
    for name in batch.attributes.dtype.names or ():
        expected = STATUS_CODES["deleted"] if name == "status" else getattr(row, name)
        assert fields[name] == expected, name
    assert batch.titles == ["Milk"] and batch.versions == [VERSION_A]
    assert batch.vectors == [b"\x00\x38\x00\xb4\x00\x00\x00\x3c"]


def test_absent_fields_have_the_defaults_of_the_schema() -> None:
    batch = decoded(message(pin_embedded(), encode(pin_embedded()).replace(b',"status":"active"', b""))).batch
    assert batch.attributes["status"].tolist() == [STATUS_CODES["active"]]
    assert batch.titles == [""] and batch.attributes["target_ages"].tolist() == [0]


def test_rows_of_several_versions_keep_their_order() -> None:
    rows = [pin_embedded(pin_id=n, tower_version=VERSION_B if n % 2 else VERSION_A) for n in range(5)]
    batch = decoded(*map(message, rows)).batch
    assert batch.attributes["pin_id"].tolist() == [0, 1, 2, 3, 4]
    assert [batch.versions[code] for code in batch.version_code] == [row.tower_version for row in rows]


def test_a_bad_message_is_a_letter_and_the_others_are_rows() -> None:
    good = [pin_embedded(pin_id=n) for n in range(3)]
    messages = [
        message(good[0]),
        message(good[0], b"{", offset=1),
        message(good[1]),
        Message(0, 3, 5, b"7:zzz", encode(good[1])),
        Message(0, 4, 5, b"7:zzz", None),
        message(good[2]),
    ]
    rows = decoded(*messages)
    assert rows.places.tolist() == [0, 2, 5]
    assert rows.batch.attributes["pin_id"].tolist() == [0, 1, 2]
    assert reasons(rows) == [
        DeadLetterReason.DECODE_ERROR,
        DeadLetterReason.KEY_MISMATCH,
        DeadLetterReason.DECODE_ERROR,
    ]
    letter = rows.letters[0]
    assert (letter.topic, letter.partition, letter.offset) == ("pin.embedded.v1", 0, 1)
    assert (letter.key, letter.value) == (messages[1].key, b"{")


@pytest.mark.parametrize("size", [3, 5, 8])
def test_a_vector_of_another_dimension_than_its_tower_is_a_letter(size: int) -> None:
    rows = decoded(message(pin_embedded(vector=encode_fp16([0.5] * size))), message(pin_embedded()))
    assert reasons(rows) == [DeadLetterReason.SCHEMA_INVALID]
    assert f"{size} dimensions, its tower has 4" in rows.letters[0].message
    assert len(rows.batch) == 1


def test_a_tower_that_is_not_live_may_have_any_dimension() -> None:
    row = pin_embedded(tower_version=VERSION_B, vector=encode_fp16([0.5] * 9))
    assert len(decoded(message(row)).batch.vectors[0]) == 18
    assert len(EmbeddedDecoder().decode([message(row)], {}).batch) == 1


@pytest.mark.parametrize("vector", ["AHwAAAAAAAA=", "AH4AAAAAAAA=", "AAA", "=", 5, None, []])
def test_a_vector_that_is_none_is_a_letter(vector: object) -> None:
    event = orjson.loads(encode(pin_embedded())) | {"vector": vector}
    rows = decoded(message(pin_embedded(), orjson.dumps(event)))
    assert reasons(rows) == [DeadLetterReason.SCHEMA_INVALID]
    assert len(rows.batch) == 0


def test_a_vector_as_a_list_of_numbers_is_taken() -> None:
    event = orjson.loads(encode(pin_embedded())) | {"vector": [0.5, -0.25, 0, 1]}
    rows = decoded(message(pin_embedded(), orjson.dumps(event)))
    assert rows.letters == []
    assert rows.batch.vectors[0] == decoded(message(pin_embedded())).batch.vectors[0]
    assert decode_fp16(pin_embedded().vector) == (0.5, -0.25, 0.0, 1.0)


def test_a_message_over_the_limit_is_a_letter() -> None:
    row = pin_embedded()
    rows = decoded(message(row), message(row, encode(row)[:-1] + b" " * 300_000 + b"}"))
    assert reasons(rows) == [DeadLetterReason.TOO_LARGE]


def test_nothing_is_nothing() -> None:
    assert len(decoded().batch) == 0
