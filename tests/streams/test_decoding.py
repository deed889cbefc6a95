from collections import Counter
from collections.abc import Sequence

import polars as pl
import pytest

from features.pin_changes import changes_from_frame
from features.pin_state import CHANGED
from schemas.batch import UndecodableBatch
from schemas.codec import MAX_EVENT_BYTES, decode, encode
from schemas.errors import DeadLetterReason, InvalidMessage
from schemas.events import PinAggregated, PinChanged
from schemas.topics import PIN_AGGREGATED
from streams.decoding import DOUBTED_BATCHES, decode_source
from tests.schemas.examples import FULL_PIN_CHANGED, pin_changed
from tests.streams.batches import SOURCES, events_batch, keyed, source_batch
from tests.streams.mutated_events import mutated_events


def _prices(count: int) -> list[PinChanged]:
    return [PinChanged(pin_id=pin, occurred_at_ms=5, price_micros=10 * pin) for pin in range(count)]


def test_a_clean_batch_is_decoded_without_reading_a_single_message() -> None:
    decoded = decode_source(events_batch(_prices(100)))
    assert decoded.single_decodes == 0
    assert decoded.letters == []
    assert decoded.rows.tolist() == list(range(100))
    assert decoded.changes.columns["price_micros"].values.tolist() == [10 * pin for pin in range(100)]


@pytest.mark.parametrize(
    ("pill", "reason"),
    [
        (b"", DeadLetterReason.DECODE_ERROR),
        (None, DeadLetterReason.DECODE_ERROR),
        (b"{", DeadLetterReason.DECODE_ERROR),
        (b"null", DeadLetterReason.SCHEMA_INVALID),
        (b'{"pin_id":3}', DeadLetterReason.SCHEMA_INVALID),
        (b'{"pin_id":3,"occurred_at_ms":5,"price_micros":-1}', DeadLetterReason.SCHEMA_INVALID),
        (b'{"pin_id":3,"occurred_at_ms":5,"price_micros":"7"}', DeadLetterReason.SCHEMA_INVALID),
        (b'{"pin_id":3,"occurred_at_ms":5,"coupons":[1,"2",3]}', DeadLetterReason.SCHEMA_INVALID),
        (b'{"pin_id":3,"occurred_at_ms":5,"content_embedding":"!"}', DeadLetterReason.SCHEMA_INVALID),
        (b'{"pin_id":3,"occurred_at_ms":5,"title":7}', DeadLetterReason.SCHEMA_INVALID),
        (b" " * MAX_EVENT_BYTES + b"{}", DeadLetterReason.TOO_LARGE),
    ],
)
@pytest.mark.parametrize("place", [0, 517, 999])
def test_one_pill_is_singled_out_and_slows_nobody_else(
    pill: bytes | None, reason: DeadLetterReason, place: int
) -> None:
    keys, values = keyed(_prices(1000))
    keys[place], values[place] = b"3", pill
    decoded = decode_source(source_batch(keys, values, first_offset=50))
    assert [(one.row, one.offset, one.partition, one.reason) for one in decoded.letters] == [
        (place, 50 + place, 3, reason)
    ]
    assert (decoded.letters[0].key, decoded.letters[0].value) == (b"3", pill)
    assert decoded.rows.tolist() == [row for row in range(1000) if row != place]
    assert decoded.single_decodes == 1


def test_every_pill_of_a_batch_full_of_them_is_named() -> None:
    keys, values = keyed(_prices(400))
    for row in range(0, 400, 4):
        values[row] = [b"{", b"[]", b'{"pin_id":"x","occurred_at_ms":5}', b'{"pin_id":1}'][row // 4 % 4]
    decoded = decode_source(source_batch(keys, values))
    assert [one.row for one in decoded.letters] == list(range(0, 400, 4))
    assert len(decoded.rows) == 300


def test_a_batch_of_pills_only_gives_letters_only() -> None:
    decoded = decode_source(source_batch([b"1"] * 3, [b"x", b"{}", None]))
    assert len(decoded.letters) == 3
    assert len(decoded.rows) == len(decoded.changes.pin_id) == 0


@pytest.mark.parametrize("key", [None, b"", b"7", b" 5", b"05", b"\x00\x00\x00\x05"])
def test_a_key_that_is_not_the_pin_id_as_text_is_a_mismatch(key: bytes | None) -> None:
    keys, values = keyed(_prices(10))
    keys[5] = key
    decoded = decode_source(source_batch(keys, values))
    assert [(one.row, one.reason) for one in decoded.letters] == [(5, DeadLetterReason.KEY_MISMATCH)]
    assert decoded.changes.pin_id.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_a_mismatch_beside_a_pill_is_found_too() -> None:
    keys, values = keyed(_prices(10))
    keys[5], values[2] = b"6", b"{"
    decoded = decode_source(source_batch(keys, values))
    assert [(one.row, one.reason.value) for one in decoded.letters] == [
        (2, "decode_error"),
        (5, "key_mismatch"),
    ]
    assert decoded.rows.tolist() == [0, 1, 3, 4, 6, 7, 8, 9]


def test_a_bad_event_of_another_type_is_an_unknown_version() -> None:
    keys, values = keyed(_prices(3))
    values[1] = b'{"pin":1}'
    batch = source_batch(keys, values, event_type=lambda row: "pin.changed.v2")
    (letter,) = decode_source(batch).letters
    assert letter.reason is DeadLetterReason.UNKNOWN_VERSION
    assert "pin.changed.v2" in letter.message


def test_valid_events_in_an_odd_form_are_kept_in_their_place() -> None:
    odd = b'{\n  "pin_id": 1,\n "occurred_at_ms": 5, "content_embedding": [%s]}' % b",".join([b"0.5"] * 48)
    plain = encode(pin_changed(pin_id=1, content_embedding=FULL_PIN_CHANGED["content_embedding"]))
    decoded = decode_source(source_batch([b"1"] * 3, [plain, odd, plain]))
    assert decoded.letters == []
    column = decoded.changes.columns["content_embedding"]
    assert column.rows.tolist() == [0, 1, 2]
    assert column.values[1].tolist() == [0.5] * 48


def test_windows_that_fall_are_invalid_for_the_bulk_decoder_too() -> None:
    good = PinAggregated(pin_id=1, occurred_at_ms=5, offsite_visits=[1, 2, 3, 4])
    bad = b'{"pin_id":1,"occurred_at_ms":5,"offsite_visits":[4,3,2,1]}'
    batch = source_batch([b"1"] * 3, [encode(good), bad, encode(good)], topic=PIN_AGGREGATED.name)
    decoded = decode_source(batch)
    assert [(one.row, one.reason.value) for one in decoded.letters] == [(1, "schema_invalid")]


def test_vectors_in_both_spellings_are_read_without_pydantic() -> None:
    text = encode(pin_changed(pin_id=1, content_embedding=FULL_PIN_CHANGED["content_embedding"]))
    listed = b'{"pin_id":1,"occurred_at_ms":5,"content_embedding":[%s]}' % b",".join([b"0.5"] * 48)
    decoded = decode_source(source_batch([b"1"] * 3, [text, listed, text]))
    assert (decoded.single_decodes, decoded.letters) == (0, [])
    assert decoded.changes.columns["content_embedding"].values[1].tolist() == [0.5] * 48


def _parses(bad: bytes, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the parser was called for a clean batch, two with `bad` in them, and each clean one after."""
    keys, values = keyed(_prices(10))
    clean, poisoned = source_batch(keys, values), source_batch(keys, [bad, *values[1:]])
    calls: list[int] = []
    parse = clean.source.decoder.parse

    def counted(batch: Sequence[bytes]) -> pl.DataFrame:
        calls[-1] += 1
        return parse(batch)

    monkeypatch.setattr(clean.source.decoder, "parse", counted)
    clean.source.doubt.torn = clean.source.doubt.singly = 0
    for batch in (clean, poisoned, poisoned, *[clean] * (DOUBTED_BATCHES + 1)):
        letters = [0] if batch is poisoned else []
        calls.append(0)
        decoded = decode_source(batch)
        assert [one.row for one in decoded.letters] == letters
        assert decoded.changes.pin_id.tolist() == list(range(len(letters), 10))
    return calls


def test_after_a_batch_that_the_parser_refused_the_next_ones_are_not_handed_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = _parses(b'{"pin_id":tru}', monkeypatch)
    assert calls == [1, 2, 0, *[0] * DOUBTED_BATCHES, 1]


def test_a_torn_message_costs_one_parse_and_after_it_none(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _parses(b'{"pin_id":0,"occurr', monkeypatch)
    assert calls == [1, 2, 1, *[1] * DOUBTED_BATCHES, 1]


def test_what_the_bulk_decoder_accepts_pydantic_accepts_with_equal_values() -> None:
    decoder, outcomes = SOURCES["pin.changed.v1"].decoder, Counter[tuple[bool, bool]]()
    for _, value in mutated_events(3000, seed=1):
        try:
            frame = decoder.decode([value])
            changes_from_frame(frame, CHANGED)
        except UndecodableBatch:
            outcomes[False, True] += 1
            continue
        if b"\\ud800" in value:
            continue  # half a surrogate pair in a field that nobody reads: polars does not mind it there
        event = decode(PinChanged, value)
        outcomes[True, True] += 1
        told = event.model_dump(exclude_none=True) | {"content_embedding": None}
        row = frame.row(0, named=True) | {"content_embedding": None}
        assert {name: one for name, one in row.items() if one is not None} == {
            name: one for name, one in told.items() if one is not None
        }
    assert min(outcomes.values()) > 500


def test_ten_thousand_mutated_events_all_end_up_as_changes_or_letters() -> None:
    made = list(mutated_events(10_000, seed=2))
    accepted = letters = 0
    for start in range(0, len(made), 1000):
        part = made[start : start + 1000]
        batch = source_batch([key for key, _ in part], [value for _, value in part])
        batch.source.doubt.torn, batch.source.doubt.singly = start // 1000 % 2, start // 2000 % 2
        decoded = decode_source(batch)
        turned_down = [one.row for one in decoded.letters]
        assert sorted([*decoded.rows.tolist(), *turned_down]) == list(range(1000))
        for one in decoded.letters:
            assert (one.key, one.value) == part[one.row]
            assert one.message
        _check_verdicts(part, turned_down)
        accepted, letters = accepted + len(decoded.rows), letters + len(turned_down)
    assert accepted > 3000
    assert letters > 3000


def _check_verdicts(part: list[tuple[bytes, bytes]], turned_down: list[int]) -> None:
    """Letters are exactly what pydantic refuses or what has the wrong key."""
    expected = []
    for row, (key, value) in enumerate(part):
        try:
            if b"%d" % decode(PinChanged, value).pin_id != key:
                expected.append(row)
        except InvalidMessage:
            expected.append(row)
    lenient = {row for row in expected if b"\\ud800" in part[row][1]}
    assert set(expected) - lenient <= set(turned_down) <= set(expected)
