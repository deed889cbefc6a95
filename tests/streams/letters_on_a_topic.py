"""Dead letters produced as the outlet does it, and source topics read back."""

from collections.abc import Sequence

from schemas.codec import encode
from schemas.errors import DeadLetterReason
from schemas.topics import PIN_CHANGED
from streams.dead_letters import Headers
from streams.kafka import KafkaSettings
from streams.outlet import Outlet
from streams.sources import DeadLetter
from streams.topic_reader import Record, TopicReader
from tests.schemas.examples import pin_changed

DLQ = PIN_CHANGED.dlq


def letter(pin_id: int, **fields: object) -> DeadLetter:
    """A letter whose message would pass now: a tower failed on it."""
    given = {
        "topic": PIN_CHANGED.name,
        "row": 0,
        "partition": pin_id % 32,
        "offset": 100 + pin_id,
        "ingested_at_ms": 1_000_000 + pin_id,
        "key": b"%d" % pin_id,
        "value": encode(pin_changed(pin_id=pin_id, bid_micros=pin_id)),
        "reason": DeadLetterReason.MODEL_ERROR,
        "message": "no finite vector",
    }
    return DeadLetter(**(given | fields))  # type: ignore[arg-type]


def broken(pin_id: int) -> DeadLetter:
    """A letter whose message no schema of ours takes."""
    return letter(pin_id, value=b"{", reason=DeadLetterReason.DECODE_ERROR, message="no JSON")


def put_letters(
    settings: KafkaSettings, letters: Sequence[DeadLetter], headers: Headers | None = None
) -> None:
    """Onto their dead-letter topics, acknowledged."""
    # A broker that has just started takes longer to let a producer in than rows of a worker may wait.
    outlet = Outlet(settings.model_copy(update={"session_timeout_ms": 60_000}), "worker-1")
    outlet.produce_letters([(one, headers) for one in letters])
    outlet.wait()


def records(settings: KafkaSettings, topic: str) -> list[Record]:
    """Everything on a topic."""
    with TopicReader(settings) as reader:
        return [one for batch in reader.read(topic, reader.spans(topic)) for one in batch]
