"""What the enrichment step reads: messages of one topic by columns; and what it turns down: dead letters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from features.pin_state import AGGREGATED, CHANGED
from schemas.batch import BatchDecoder
from schemas.errors import DeadLetterReason
from schemas.rows import RowReader
from schemas.topics import ENRICHMENT_SOURCES, PIN_AGGREGATED, Topic

Ints = npt.NDArray[np.int64]
EventType = Callable[[int], str | None]
"""Row -> CloudEvents `type` of the message, or None when it has none."""


@dataclass
class Doubt:
    """How many more batches of a source are looked at for torn messages first, and how many are read singly.

    Every way gives the same columns; it spares a stream with a pill in every batch the parse that fails.
    """

    torn: int = 0
    singly: int = 0


@dataclass(frozen=True)
class Source:
    """A topic that is folded into Pin state, with its decoders; `field` is the record's offset field.

    `partitions` is how many the topic has; None: whether events lie on the right one is not looked at.
    """

    topic: str
    model: type[BaseModel]
    field: str
    decoder: BatchDecoder
    reader: RowReader
    doubt: Doubt
    partitions: int | None = None


def enrichment_sources() -> dict[str, Source]:
    """The sources by topic name."""
    return {topic.name: _source(topic) for topic in ENRICHMENT_SOURCES}


def _source(topic: Topic) -> Source:
    field = AGGREGATED if topic is PIN_AGGREGATED else CHANGED
    model = topic.value
    return Source(topic.name, model, field, BatchDecoder(model), RowReader(model), Doubt())


@dataclass(frozen=True)
class SourceBatch:
    """Messages of one source, row by row; rows of one partition come in offset order.

    `ingested_at_ms` is the broker's timestamp. `event_type` is asked only about rows that failed.
    """

    source: Source
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    partitions: Ints
    offsets: Ints
    ingested_at_ms: Ints
    event_type: EventType

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class DeadLetter:
    """One message that can never be enriched, with its original bytes and why."""

    topic: str
    row: int
    """Place in its `SourceBatch`, for what only the edge knows (headers)."""
    partition: int
    offset: int
    ingested_at_ms: int
    key: bytes | None
    value: bytes | None
    reason: DeadLetterReason
    message: str
    model_version: str | None = None
    """The tower version at work, where one was."""


def dead_letter(batch: SourceBatch, row: int, reason: DeadLetterReason, message: str) -> DeadLetter:
    """The letter of one row; its reason is UNKNOWN_VERSION when the message names another event type."""
    named = batch.event_type(row)
    if named is not None and named != batch.source.topic:
        reason, message = DeadLetterReason.UNKNOWN_VERSION, f"ce_type is {named[:100]}; {message}"
    return DeadLetter(
        topic=batch.source.topic,
        row=row,
        partition=int(batch.partitions[row]),
        offset=int(batch.offsets[row]),
        ingested_at_ms=int(batch.ingested_at_ms[row]),
        key=batch.keys[row],
        value=batch.values[row],
        reason=reason,
        message=message,
    )
