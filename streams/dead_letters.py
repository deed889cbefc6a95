"""Dead letters as Kafka messages: the original key and value untouched, the story in headers."""

from collections.abc import Sequence

from schemas.topics import PIN_EMBEDDED, TOPICS

from .sources import DeadLetter

Headers = list[tuple[str, bytes | None]]

_MESSAGE_CHARACTERS = 1000


def letter_topic(letter: DeadLetter) -> str:
    """The dead-letter topic of the letter's source."""
    return TOPICS[letter.topic].dlq


def letter_headers(
    letter: DeadLetter, worker: str, original: Sequence[tuple[str, bytes | None]] | None
) -> Headers:
    """`x-dlq-*` headers in front of the ones that the message came with."""
    story = {
        "reason": letter.reason.value,
        "message": letter.message[:_MESSAGE_CHARACTERS],
        "topic": letter.topic,
        "partition": str(letter.partition),
        "offset": str(letter.offset),
        "timestamp": str(letter.ingested_at_ms),
        "stage": "snapshot" if letter.topic == PIN_EMBEDDED.name else "enrichment",
        "worker": worker,
    }
    ours: Headers = [
        (f"x-dlq-{name}", text.encode("utf-8", "backslashreplace")) for name, text in story.items()
    ]
    return ours + [pair for pair in original or () if not pair[0].startswith("x-dlq-")]
