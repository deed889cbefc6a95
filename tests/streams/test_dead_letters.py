from schemas.errors import DeadLetterReason
from streams.dead_letters import letter_headers, letter_topic
from streams.sources import DeadLetter

LETTER = DeadLetter(
    topic="pin.changed.v1",
    row=4,
    partition=3,
    offset=17,
    ingested_at_ms=1_000,
    key=b"7",
    value=b"{",
    reason=DeadLetterReason.DECODE_ERROR,
    message="é" * 2000 + "\ud800",
)


def test_the_headers_tell_the_whole_story_and_keep_the_original_ones() -> None:
    headers = letter_headers(
        LETTER, "worker-1", [("ce_id", b"9"), ("x-dlq-reason", b"older"), ("none", None)]
    )
    assert dict(headers) == {
        "x-dlq-reason": b"decode_error",
        "x-dlq-message": "é".encode() * 1000,
        "x-dlq-topic": b"pin.changed.v1",
        "x-dlq-partition": b"3",
        "x-dlq-offset": b"17",
        "x-dlq-timestamp": b"1000",
        "x-dlq-stage": b"enrichment",
        "x-dlq-worker": b"worker-1",
        "ce_id": b"9",
        "none": None,
    }
    assert len(headers) == 10


def test_a_letter_goes_to_its_own_topics_dead_letters() -> None:
    assert letter_topic(LETTER) == "pin.changed.v1.dlq"
