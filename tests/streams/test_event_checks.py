import io
import json
from typing import Any

import pytest

from schemas.codec import decode, encode
from schemas.errors import InvalidMessage, Refused
from schemas.topics import PIN_CHANGED
from streams.event_checks import CHECKS, MAX_EXAMPLES, Check, EventChecks
from streams.event_decoding import EventDecoder
from streams.event_lines import read_blocks
from tests.schemas.examples import engagement, pin_aggregated, pin_changed
from tests.streams.mutated_events import mutated_events

NOW_MS = 1_600_000_000_000
DAY_MS = 86_400_000


def checked(text: bytes, topic: str | None = None, block_bytes: int = 4 << 20) -> dict[str, Check]:
    checks = EventChecks(topic, NOW_MS)
    for block in read_blocks(io.BytesIO(text), block_bytes):
        checks.add(block)
    return {check.name: check for check in checks.results()}


def lines(*events: Any) -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else encode(one) for one in events) + b"\n"


def envelope(topic: str, event: Any, **fields: Any) -> bytes:
    return json.dumps({"topic": topic, "value": json.loads(encode(event))} | fields).encode()


def failures(results: dict[str, Check]) -> dict[str, list[int]]:
    """Check -> lines, of those that failed."""
    return {name: [line for line, _ in one.examples] for name, one in results.items() if one.failed}


def test_good_events_pass_every_check_that_can_be_made() -> None:
    results = checked(lines(pin_changed(pin_id=1), b"", pin_changed(pin_id=2)), PIN_CHANGED.name)

    assert list(results) == list(CHECKS)
    assert {one.name for one in results.values() if one.result == "SKIP"} == {"key", "pins"}
    assert {one.result for one in results.values()} == {"PASS", "SKIP"}


def test_each_fault_is_found_by_its_check_at_its_line() -> None:
    late, early = NOW_MS + DAY_MS + 1, 1_500_000_000
    results = checked(
        lines(
            envelope("pin.changed.v1", pin_changed(pin_id=1), key="1"),
            b"{not json",
            envelope("pin.changed.v9", pin_changed(pin_id=1)),
            envelope("pin.changed.v1", pin_changed(pin_id=1)).replace(b"occurred_at_ms", b"occurred"),
            envelope("pin.aggregated.v1", pin_aggregated(pin_id=1)).replace(b"[1, 2, 3, 4]", b"[4, 3, 2, 1]"),
            envelope("pin.changed.v1", pin_changed(pin_id=1, bid_micros=1), key="2"),
            envelope("pin.changed.v1", pin_changed(pin_id=1, occurred_at_ms=late)),
            envelope("pin.changed.v1", pin_changed(pin_id=1, occurred_at_ms=early)),
            envelope("pin.changed.v1", pin_changed(pin_id=1, starts_at_ms=5, ends_at_ms=5)),
            envelope("pin.changed.v1", pin_changed(pin_id=1), key="1"),
            envelope("engagement.observed.v1", engagement(pin_id=5), key="5"),
            b'{"topic":"pin.changed.v1","key":"1","value":null}',
            encode(pin_changed(pin_id=3)),
        )
    )

    assert failures(results) == {
        "decode": [2, 12],
        "topic": [3, 13],
        "schema": [4],
        "windows": [5],
        "key": [6],
        "times": [7, 8, 9],
        "duplicates": [10],
        "pins": [11],
    }
    details = dict(results["times"].examples)
    assert "seconds instead of milliseconds" in details[8]
    assert results["duplicates"].examples == [(10, "as line 1")]
    assert results["pins"].examples == [(11, "Pin 5 has none")]


def test_source_and_id_name_an_event_whatever_its_content() -> None:
    results = checked(
        lines(
            envelope(PIN_CHANGED.name, pin_changed(pin_id=1), id="a", source="s"),
            envelope(PIN_CHANGED.name, pin_changed(pin_id=2), id="a", source="t"),
            envelope(PIN_CHANGED.name, pin_changed(pin_id=3), headers={"ce_id": "a", "ce_source": "s"}),
            envelope(PIN_CHANGED.name, pin_changed(pin_id=1), id="b", source="s"),
        )
    )

    assert failures(results) == {"duplicates": [3]}


def test_counts_go_on_where_the_examples_end_and_lines_are_counted_across_blocks() -> None:
    bad = [encode(pin_changed(pin_id=number)).replace(b"pin_id", b"pin") for number in range(30)]
    results = checked(lines(*bad), PIN_CHANGED.name, block_bytes=100)

    assert results["schema"].failed == 30
    assert [line for line, _ in results["schema"].examples] == list(range(1, MAX_EXAMPLES + 1))


def test_a_pin_that_is_created_after_it_is_told_about_is_created() -> None:
    told = envelope("engagement.observed.v1", engagement(pin_id=5))
    created = envelope(PIN_CHANGED.name, pin_changed(pin_id=5))

    assert checked(lines(told, created))["pins"].result == "PASS"
    assert checked(lines(told))["pins"].skipped == "the file holds no pin.changed.v1"


def test_windows_line_ends_are_no_part_of_an_event() -> None:
    text = lines(pin_changed(pin_id=1), pin_changed(pin_id=2)).replace(b"\n", b"\r\n")

    assert failures(checked(text, PIN_CHANGED.name)) == {}


def test_a_topic_that_is_none_of_ours_is_refused() -> None:
    with pytest.raises(Refused, match="unknown_topic"):
        EventChecks("pins", NOW_MS)


def test_a_file_without_line_ends_is_refused_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streams.event_lines.MAX_LINE_BYTES", 1_000)

    with pytest.raises(Refused, match="long_line"):
        list(read_blocks(io.BytesIO(b"x" * 3_000), 500))


@pytest.mark.parametrize("block_bytes", [7, 64, 1 << 20])
def test_blocks_hold_every_line_once(block_bytes: int) -> None:
    text = b"".join(b"%d\n" % number for number in range(300)) + b"last"
    found = [
        (number, line)
        for block in read_blocks(io.BytesIO(text), block_bytes)
        for number, line in enumerate(block.lines, block.first_line)
    ]

    assert found == list(enumerate(text.split(b"\n"), 1))


def test_the_bulk_decoder_turns_down_what_pydantic_turns_down() -> None:
    """On mutated events, in small batches so that clean, dirty and unparsable batches all occur."""
    values = [value for _, value in mutated_events(4_000, seed=11) if value.count(b'"pin_id"') < 2]
    decoder, model = EventDecoder(PIN_CHANGED), PIN_CHANGED.value
    turned_down, pins = [], []
    for start in range(0, len(values), 4):
        decoded = decoder.decode(values[start : start + 4])
        turned_down += [start + row for row, _ in decoded.invalid]
        rows, columns = decoded.table()
        pins += [
            (start + row, pin) for row, pin in zip(rows.tolist(), columns["pin_id"].tolist(), strict=True)
        ]

    expected_bad, expected_pins = [], []
    for row, value in enumerate(values):
        try:
            expected_pins.append((row, getattr(decode(model, value), "pin_id")))  # noqa: B009
        except InvalidMessage:
            expected_bad.append(row)

    assert turned_down == expected_bad
    assert pins == expected_pins
    assert 500 < len(expected_bad) < 3_500
