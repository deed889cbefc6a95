"""Events of a topic → the few columns that checks look at, in bulk, and why the others are no events."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from pydantic import BaseModel

from features.pin_changes import unreadable_rows
from schemas.batch import BatchDecoder, UndecodableBatch
from schemas.codec import MAX_EVENT_BYTES, decode
from schemas.errors import InvalidMessage
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED, WINDOW_SOURCES, Topic

from .sources import Ints

COLUMNS = ("pin_id", "occurred_at_ms", "starts_at_ms", "ends_at_ms")
"""What is kept of each event; -1 where it has no such field."""

_IN_BULK = frozenset({PIN_CHANGED, PIN_AGGREGATED, *WINDOW_SOURCES})
"""Topics whose every rule is known by columns; others are read one by one."""


@dataclass
class Decoded:
    """Valid rows (places among what was given) with their columns, and the invalid ones."""

    rows: list[Ints] = field(default_factory=list)
    columns: list[Ints] = field(default_factory=list)
    """Per entry of `rows`, an array (len(COLUMNS), N)."""
    invalid: list[tuple[int, InvalidMessage]] = field(default_factory=list)

    def table(self) -> tuple[Ints, dict[str, Ints]]:
        """All valid rows, ascending, and their columns."""
        if not self.rows:
            nothing = np.empty(0, np.int64)
            return nothing, dict.fromkeys(COLUMNS, nothing)
        rows, columns = np.concatenate(self.rows), np.concatenate(self.columns, axis=1)
        order = np.argsort(rows)
        return rows[order], dict(zip(COLUMNS, columns[:, order], strict=True))


class EventDecoder:
    """Reads values of one topic. What it accepts is what `schemas.codec.decode` accepts."""

    def __init__(self, topic: Topic) -> None:
        self._model = topic.value
        self._decoder = BatchDecoder(topic.value) if topic in _IN_BULK else None

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Every value ends up in a row or among the invalid."""
        decoded = Decoded()
        small: list[int] = []
        for row, value in enumerate(values):
            if self._decoder is None or value is None or len(value) > MAX_EVENT_BYTES or b"\n" in value:
                self._single(row, value, decoded)
            else:
                small.append(row)
        if small:
            self._bulk(small, [values[row] or b"" for row in small], decoded)
        decoded.invalid.sort(key=lambda one: one[0])
        return decoded

    def _bulk(self, rows: list[int], values: list[bytes], decoded: Decoded) -> None:
        assert self._decoder is not None
        try:
            frame = self._decoder.parse(values)
            suspects = sorted(self._decoder.broken_rows(frame, values) | unreadable_rows(frame))
        except UndecodableBatch:
            # One by one takes twice as long; to corner the bad ones in bulk took longer.
            for row, value in zip(rows, values, strict=True):
                self._single(row, value, decoded)
            return
        for place in suspects:
            self._single(rows[place], values[place], decoded)
        good = np.ones(len(rows), np.bool_)
        good[suspects] = False
        if good.any():
            decoded.rows.append(np.array(rows, np.int64)[good])
            decoded.columns.append(_columns(frame.filter(pl.Series(good)) if suspects else frame))

    def _single(self, row: int, value: bytes | None, decoded: Decoded) -> None:
        try:
            event = decode(self._model, value)
        except InvalidMessage as error:
            decoded.invalid.append((row, error))
            return
        decoded.rows.append(np.array([row], np.int64))
        decoded.columns.append(_column(event))


def _columns(frame: pl.DataFrame) -> Ints:
    absent = pl.lit(-1, pl.Int64)
    kept = frame.select(
        [
            (pl.col(name).fill_null(-1) if name in frame.columns else absent.alias(name)).cast(pl.Int64)
            for name in COLUMNS
        ]
    )
    if kept.height != frame.height:
        kept = pl.DataFrame({name: [-1] * frame.height for name in COLUMNS})
    return np.ascontiguousarray(kept.to_numpy().T, np.int64)


def _column(event: BaseModel) -> Ints:
    found = [getattr(event, name, None) for name in COLUMNS]
    return np.array([[-1 if one is None else one] for one in found], np.int64)
