"""Dead letters as Kafka messages: the original key and value untouched, the story in headers."""

from collections.abc import Sequence
from operator import methodcaller
from typing import cast

from confluent_kafka import Message

from schemas.topics import ENRICHMENT_SOURCES, PIN_EMBEDDED, TOPICS

from .sources import DeadLetter

Headers = list[tuple[str, bytes | None]]

PREFIX = "x-dlq-"
REPLAYED = "x-dlq-replayed"
"""On a source topic: this message was put back from `<dlq topic>/<partition>/<offset>`. On a dead-letter
topic, where no `x-dlq-reason` is beside it: the letter at `<partition>/<offset>` was put back."""
PLACE = "x-dlq-place"
"""On a mark: where the message of the letter that was put back had come from, and when it came in."""
CUT = "x-dlq-cut"
"""`true` on a letter of which only the beginning was kept, because Kafka did not take it whole."""
ATTEMPTS = "x-dlq-attempts"
UNREADABLE = ("x-dlq-headers", b"unreadable")
"""Stands for all headers of a message with a header name that is no UTF-8: the client gives none then."""

_MESSAGE_CHARACTERS = 1000
_LOST = "; its headers are lost: the name of one is no UTF-8"
_STAGES = {PIN_EMBEDDED.name: "snapshot"} | {topic.name: "enrichment" for topic in ENRICHMENT_SOURCES}


def letter_topic(letter: DeadLetter) -> str:
    """The dead-letter topic of the letter's source."""
    return TOPICS[letter.topic].dlq


# NOTE: not `message.headers()`: called often, the interpreter leaves out the look whether it failed, and the
# error comes up at whatever is called next.
_read_headers = methodcaller("headers")


def headers_of(message: Message) -> Headers | None:
    """The Kafka headers of a message that was read; `UNREADABLE` alone where the client cannot give them."""
    try:
        # The stubs allow every form that `produce` takes; what is read is always a list of pairs.
        return cast("Headers | None", _read_headers(message))
    except (UnicodeDecodeError, SystemError):
        # NOTE: asked a second time it would give a list with a hole, which ends the process.
        message.set_headers([UNREADABLE])
        return [UNREADABLE]


def letter_headers(
    letter: DeadLetter,
    worker: str,
    original: Sequence[tuple[str, bytes | None]] | None,
    stage: str | None = None,
) -> Headers:
    """`x-dlq-*` headers in front of the ones that the message came with.

    `stage`: where it was turned down; by default what reads the letter's topic in the worker or the cutter.
    `x-dlq-attempts` is 1 for a message that fails for the first time and grows with each replay.
    """
    lost = _LOST if UNREADABLE in (original or ()) else ""
    story = {
        "reason": letter.reason.value,
        "message": letter.message[: _MESSAGE_CHARACTERS - len(lost)] + lost,
        "topic": letter.topic,
        "partition": str(letter.partition),
        "offset": str(letter.offset),
        "timestamp": str(letter.ingested_at_ms),
        "stage": stage or _STAGES.get(letter.topic, "stream"),
        "attempts": str(attempts(original) + 1),
        "worker": worker,
    }
    if letter.model_version:
        story["model-version"] = letter.model_version
    ours: Headers = [
        (PREFIX + name, text.encode("utf-8", "backslashreplace")) for name, text in story.items()
    ]
    return ours + without_story(original)


def without_story(headers: Sequence[tuple[str, bytes | None]] | None) -> Headers:
    """The headers that a message had before it became a letter."""
    return [pair for pair in headers or () if not pair[0].startswith(PREFIX)]


def attempts(headers: Sequence[tuple[str, bytes | None]] | None) -> int:
    """How often a message was turned down so far; 0 for one that never was, or that says nonsense."""
    text = dict(headers or ()).get(ATTEMPTS) or b""
    return int(text) if text.isdigit() and len(text) < 10 else 0
