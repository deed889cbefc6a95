"""Source batches in which some messages are framed: decoded as JSON, dead-lettered as they came."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .decoding import DecodedBatch, decode_source
from .sources import DeadLetter, SourceBatch, dead_letter
from .wire_format import Unframed, WireFormats


def decode_framed(batch: SourceBatch, formats: WireFormats | None) -> DecodedBatch:
    """`decode_source` for a batch that may hold Confluent's wire format; without `formats` just that.

    Letters keep the original bytes. Raises RetryableError while the schema registry is away: nothing of
    the batch is done then, and the whole of it is to be tried again.
    """
    unframed = formats.normalise(batch.source.model, batch.values) if formats is not None else None
    if unframed is None:
        return decode_source(batch)
    kept = [row for row in range(len(batch)) if row not in unframed.refused]
    decoded = decode_source(_rows(batch, unframed, kept))
    rows = np.array(kept, np.int64)
    letters = [_original(batch, kept[letter.row], letter) for letter in decoded.letters]
    letters += [
        dead_letter(batch, row, invalid.reason, invalid.detail) for row, invalid in unframed.refused.items()
    ]
    return replace(decoded, rows=rows[decoded.rows], letters=sorted(letters, key=lambda letter: letter.row))


def _rows(batch: SourceBatch, unframed: Unframed, kept: Sequence[int]) -> SourceBatch:
    return replace(
        batch,
        keys=[batch.keys[row] for row in kept],
        values=[unframed.values[row] for row in kept],
        partitions=batch.partitions[kept],
        offsets=batch.offsets[kept],
        ingested_at_ms=batch.ingested_at_ms[kept],
        event_type=lambda row: batch.event_type(kept[row]),
    )


def _original(batch: SourceBatch, row: int, letter: DeadLetter) -> DeadLetter:
    return replace(letter, row=row, value=batch.values[row])
