"""One raw message → its event, or the reason why it can never be one. For steps of low rate."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from schemas.codec import decode
from schemas.errors import DeadLetterReason, InvalidMessage
from schemas.topics import Topic

from .steps import RawEvent, TurnedDown

KeyOf = Callable[[Any], bytes]
"""Event -> the key that its message has to have."""


def event_or_letter(event: RawEvent, topic: Topic, key_of: KeyOf) -> BaseModel | TurnedDown:
    """The message as `topic.value`; a `TurnedDown` when it is invalid, of another type or wrongly keyed."""
    try:
        message = decode(topic.value, event.json())
    except InvalidMessage as error:
        return _turned_down(event, topic, error.reason, error.detail)
    if event.key != (wanted := key_of(message)):
        came = f"the key is {(event.key or b'')[:64]!r}, expected {wanted[:64]!r} ({topic.key} as text)"
        return TurnedDown(event, DeadLetterReason.KEY_MISMATCH, came)
    return message


def _turned_down(event: RawEvent, topic: Topic, reason: DeadLetterReason, detail: str) -> TurnedDown:
    named = (dict(event.headers).get("ce_type") or topic.name.encode()).decode("utf-8", "replace")
    if named != topic.name:
        return TurnedDown(event, DeadLetterReason.UNKNOWN_VERSION, f"ce_type is {named[:100]}; {detail}")
    return TurnedDown(event, reason, detail)


def pin_key(message: Any) -> bytes:
    """Key of an event about a Pin."""
    return b"%d" % message.pin_id
