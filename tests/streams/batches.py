"""Source batches for tests, from plain values."""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

from schemas.codec import encode
from schemas.topics import PIN_CHANGED
from streams.sources import EventType, SourceBatch, enrichment_sources

SOURCES = enrichment_sources()


def keyed(events: Sequence[BaseModel]) -> tuple[list[bytes | None], list[bytes | None]]:
    """Keys and values as producers write them."""
    return [b"%d" % getattr(one, "pin_id") for one in events], [encode(one) for one in events]  # noqa: B009


def source_batch(
    keys: Sequence[bytes | None],
    values: Sequence[bytes | None],
    *,
    topic: str = PIN_CHANGED.name,
    first_offset: int = 0,
    partition: int = 3,
    event_type: EventType = lambda row: None,
) -> SourceBatch:
    """A batch of one partition, its offsets one after the other, ingested at 1000 + offset."""
    offsets = np.arange(first_offset, first_offset + len(values))
    return SourceBatch(
        SOURCES[topic], keys, values, np.full(len(values), partition), offsets, offsets + 1000, event_type
    )


def events_batch(
    events: Sequence[BaseModel], *, topic: str = PIN_CHANGED.name, first_offset: int = 0
) -> SourceBatch:
    """A batch of valid events."""
    return source_batch(*keyed(events), topic=topic, first_offset=first_offset)
