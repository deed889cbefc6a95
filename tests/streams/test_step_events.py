from dataclasses import replace

import pytest

from schemas.errors import DeadLetterReason
from schemas.topics import VISIT_OBSERVED
from streams.step_events import event_or_letter, pin_key
from streams.steps import RawEvent, TurnedDown
from tests.streams.raw_events import raw, visit

GOOD = raw(visit(5), 0)


def test_a_good_message_is_its_event() -> None:
    assert event_or_letter(GOOD, VISIT_OBSERVED, pin_key) == visit(5)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (replace(GOOD, value=None), DeadLetterReason.DECODE_ERROR),
        (replace(GOOD, value=b"\xff"), DeadLetterReason.DECODE_ERROR),
        (replace(GOOD, value=b"{}"), DeadLetterReason.SCHEMA_INVALID),
        (replace(GOOD, value=b" " * (256 * 1024 + 1)), DeadLetterReason.TOO_LARGE),
        (replace(GOOD, value=b"{}", headers=[("ce_type", b"visit.v9")]), DeadLetterReason.UNKNOWN_VERSION),
        (replace(GOOD, key=None), DeadLetterReason.KEY_MISMATCH),
    ],
)
def test_a_bad_message_is_turned_down_for_its_reason(event: RawEvent, reason: DeadLetterReason) -> None:
    letter = event_or_letter(event, VISIT_OBSERVED, pin_key)

    assert isinstance(letter, TurnedDown)
    assert (letter.reason, letter.event) == (reason, event)
    assert letter.message
