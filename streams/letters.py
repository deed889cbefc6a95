"""Dead letters as they lie on `<topic>.dlq`: read, told apart from the marks of a replay, filtered, judged.

A replay leaves a mark beside each letter that it has put back (`streams.letter_replay`): a record without
content, on the letter's own partition, that names the letter. So a letter is read together with what became
of it, and a mark is never older than its letter.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from pydantic import BaseModel

from schemas.cloudevents import read_headers
from schemas.codec import decode
from schemas.embeddings import PinEmbedded, embedded_key
from schemas.errors import DeadLetterReason, InvalidMessage, Refused
from schemas.topics import DLQ_SUFFIX, TOPICS

from .dead_letters import CUT, PLACE, PREFIX, REPLAYED, Headers, without_story
from .topic_reader import Record, TopicReader

_FRAMED = b"\x00"
"""How a value in Confluent wire format starts; no JSON does."""

Place = tuple[int, int]
"""Partition and offset on a dead-letter topic."""

Origin = tuple[str, int, int, int]
"""A message: its topic, partition, offset and timestamp; a topic made anew has the first three again."""


@dataclass(frozen=True)
class Letter:
    """One dead letter: where it lies, where it came from, why, and the message as it was."""

    dlq_topic: str
    partition: int
    offset: int
    dead_at_ms: int
    """When it was turned down, by the dead-letter record's timestamp."""
    topic: str
    source_partition: int
    source_offset: int
    ingested_at_ms: int
    """When the message itself came in."""
    reason: str
    message: str
    stage: str
    worker: str
    attempts: int
    model_version: str | None
    whole: bool
    """False when only the beginning of the message was kept."""
    key: bytes | None
    value: bytes | None
    headers: Headers
    """The message's own."""
    replayed: bool = False

    @property
    def ce_source(self) -> str:
        """CloudEvents source of the message; empty when it says none."""
        return read_headers(self.headers).get("ce_source", "")

    @property
    def origin(self) -> Origin | None:
        """The message that was turned down. Two letters of one, written around a kill, have the same."""
        if self.source_partition < 0 or self.source_offset < 0:
            return None
        return (self.topic, self.source_partition, self.source_offset, self.ingested_at_ms)

    def age_ms(self, now_ms: int) -> int:
        """How long ago the message came in."""
        return max(0, now_ms - self.ingested_at_ms)


def source_topic(name: str) -> str:
    """The topic whose dead letters are meant, named with or without `.dlq`.

    Raises Refused for one that is none of ours.
    """
    topic = name.removesuffix(DLQ_SUFFIX)
    if topic not in TOPICS:
        raise Refused(
            "unknown_topic", f"one of {', '.join(TOPICS)}", repr(name), "`skewless schema` lists them."
        )
    return topic


def is_mark(record: Record) -> bool:
    """Whether a record of a dead-letter topic marks a letter as replayed, and is none itself."""
    if record.value:
        return False
    names = {name for name, _ in record.headers}
    return REPLAYED in names and f"{PREFIX}reason" not in names


def marked_place(record: Record) -> Place | None:
    """The letter that a mark names; None for a mark that names none."""
    partition, _, offset = read_headers(record.headers).get(REPLAYED, "").rpartition("/")
    return (int(partition), int(offset)) if partition.isdecimal() and offset.isdecimal() else None


def marked_origin(record: Record) -> Origin | None:
    """The message that a mark names; None for one that names none, as marks did not always."""
    topic, *numbers = read_headers(record.headers).get(PLACE, "").split("/")
    if len(numbers) != 3 or not all(one.isdecimal() for one in numbers):
        return None
    partition, offset, timestamp = map(int, numbers)
    return (topic, partition, offset, timestamp)


def parse_letter(record: Record, *, replayed: bool = False) -> Letter:
    """The letter in a record. What its headers do not say, or say wrongly, is -1 or empty."""
    story = read_headers([pair for pair in record.headers if pair[0].startswith(PREFIX)])

    def text(name: str) -> str:
        return story.get(PREFIX + name, "")

    def number(name: str) -> int:
        said = text(name)
        return int(said) if said.isdecimal() and len(said) < 19 else -1

    return Letter(
        dlq_topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        dead_at_ms=record.timestamp_ms,
        topic=text("topic") or record.topic.removesuffix(DLQ_SUFFIX),
        source_partition=number("partition"),
        source_offset=number("offset"),
        ingested_at_ms=number("timestamp") if number("timestamp") >= 0 else record.timestamp_ms,
        reason=text("reason"),
        message=text("message"),
        stage=text("stage"),
        worker=text("worker"),
        attempts=max(number("attempts"), 1),
        model_version=text("model-version") or None,
        whole=CUT not in story,
        key=record.key,
        value=record.value,
        headers=without_story(record.headers),
        replayed=replayed,
    )


@dataclass(frozen=True)
class LetterFilter:
    """Which letters are meant; what is not set lets all through. Ages count from when the message came in."""

    reasons: frozenset[str] = frozenset()
    partition: int | None = None
    offset: int | None = None
    ce_source: str | None = None
    min_age_seconds: float | None = None
    max_age_seconds: float | None = None

    def __post_init__(self) -> None:
        unknown = self.reasons - {reason.value for reason in DeadLetterReason}
        if unknown:
            raise Refused(
                "unknown_reason",
                expected=f"one of {', '.join(DeadLetterReason)}",
                came=", ".join(sorted(unknown)),
                fix="`skewless dlq list` shows the reasons that there are.",
            )

    def takes(self, letter: Letter, now_ms: int) -> bool:
        """Whether this letter is meant."""
        age_seconds = letter.age_ms(now_ms) / 1000
        return (
            (not self.reasons or letter.reason in self.reasons)
            and self.partition in (None, letter.partition)
            and self.offset in (None, letter.offset)
            and self.ce_source in (None, letter.ce_source)
            and (self.min_age_seconds is None or age_seconds >= self.min_age_seconds)
            and (self.max_age_seconds is None or age_seconds <= self.max_age_seconds)
        )


@dataclass
class Reading:
    """Progress of a reading: records looked at, of how many. Marks and letters are read in two passes."""

    done: int = 0
    total: int = 0
    notice: Callable[["Reading"], None] = field(default=lambda _: None)

    def add(self, records: int) -> None:
        """Say so much more is read."""
        self.done += records
        self.notice(self)


def read_letters(reader: TopicReader, topic: str, reading: Reading | None = None) -> Iterator[Letter]:
    """The letters of one source topic, from the beginning to the end as of now, replayed ones marked so.

    A letter is replayed when a mark names it, or the message that it is of. Holds one batch of letters, and
    a place and a message per mark. Raises Refused when there is no such topic, RetryableError when Kafka is
    out of reach.
    """
    dlq, reading = source_topic(topic) + DLQ_SUFFIX, reading or Reading()
    spans = reader.spans(dlq)
    reading.total += 2 * sum(end - start for start, end in spans.values())
    marked: set[Place | None] = set()
    origins: set[Origin | None] = set()
    for batch in reader.read(dlq, spans):
        marks = [record for record in batch if is_mark(record)]
        marked |= set(map(marked_place, marks))
        origins |= set(map(marked_origin, marks))
        reading.add(len(batch))
    origins.discard(None)
    for batch in reader.read(dlq, spans):
        for record in batch:
            if not is_mark(record):
                letter = parse_letter(record, replayed=(record.partition, record.offset) in marked)
                yield replace(letter, replayed=letter.replayed or letter.origin in origins)
        reading.add(len(batch))


def would_fail_again(letter: Letter) -> str | None:
    """Why the message would be turned down again as it is, by the present schema; None when it would not.

    What only a tower can tell (`model_error`) is not foreseen.
    """
    if letter.topic not in TOPICS:
        return f"{letter.topic or 'no topic'} is none of ours"
    if not letter.whole:
        return "only its beginning was kept: send it again from its source"
    if (letter.value or b"").startswith(_FRAMED):
        return "it is framed by a schema registry, which is not asked here: force puts it back"
    named = read_headers(letter.headers).get("ce_type")
    try:
        event = decode(TOPICS[letter.topic].value, letter.value)
    except InvalidMessage as error:
        return f"ce_type is {named[:100]}; {error}" if named and named != letter.topic else str(error)
    wanted = expected_key(letter.topic, event)
    if wanted is not None and letter.key != wanted:
        return f"key_mismatch: the key is {(letter.key or b'')[:64]!r}, expected {wanted!r}"
    return None


def goes_back_to(letter: Letter, partitions: int) -> int:
    """Partition of its topic, which has so many, that the message belongs on; -1: its key's hash decides.

    A producer with another hash may have put a Pin's event elsewhere. Back on that partition, it would be
    turned down again.
    """
    by_pin = letter.topic in TOPICS and TOPICS[letter.topic].key == "pin_id"
    if by_pin and letter.key is not None:
        return -1
    return letter.source_partition if 0 <= letter.source_partition < partitions else -1


def expected_key(topic: str, event: BaseModel) -> bytes | None:
    """The key that a message of this topic has to have; None where any will do."""
    if isinstance(event, PinEmbedded):
        return embedded_key(event.pin_id, event.tower_version)
    pin = getattr(event, "pin_id", None)
    return b"%d" % pin if TOPICS[topic].key == "pin_id" and pin is not None else None
