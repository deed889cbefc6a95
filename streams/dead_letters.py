"""Dead letters as Kafka messages: the original key and value untouched, the story in headers."""

from collections.abc import Sequence

from schemas.topics import ENRICHMENT_SOURCES, PIN_EMBEDDED, TOPICS

from .sources import DeadLetter

Headers = list[tuple[str, bytes | None]]

PREFIX = "x-dlq-"
REPLAYED = "x-dlq-replayed"
"""On a source topic: this message was put back from `<dlq topic>/<partition>/<offset>`. On a dead-letter
topic, where no `x-dlq-reason` is beside it: the letter at `<partition>/<offset>` was put back."""
CUT = "x-dlq-cut"
"""`true` on a letter of which only the beginning was kept, because Kafka did not take it whole."""
ATTEMPTS = "x-dlq-attempts"

_MESSAGE_CHARACTERS = 1000
_STAGES = {PIN_EMBEDDED.name: "snapshot"} | {topic.name: "enrichment" for topic in ENRICHMENT_SOURCES}


def letter_topic(letter: DeadLetter) -> str:
    """The dead-letter topic of the letter's source."""
    return TOPICS[letter.topic].dlq


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
    story = {
        "reason": letter.reason.value,
        "message": letter.message[:_MESSAGE_CHARACTERS],
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
