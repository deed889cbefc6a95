"""Messages → changes in bulk, and the search for the bad ones in a batch that holds some.

A clean batch is parsed with one call. When that refuses it, it is tried without the messages that are
torn, and when that is refused too, the batch is read message by message, which names what it cannot
read; then the rules point at rows. Only those rows are read by pydantic, whose word is final: a letter
for what it refuses, and what it accepts, whatever it looks like, is written anew in the form that both
readers know.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import polars as pl

from features.pin_changes import Changes, changes_from_frame, unreadable_rows
from schemas.batch import UndecodableBatch
from schemas.codec import MAX_EVENT_BYTES, decode, encode
from schemas.errors import DeadLetterReason, InvalidMessage
from schemas.rows import fp16_texts

from .sources import DeadLetter, Ints, Source, SourceBatch, dead_letter

DOUBTED_BATCHES = 16
"""So many batches after a bad one are read as that one had to be: one pill in each must not cost a parse."""


@dataclass(frozen=True)
class DecodedBatch:
    """The rows that are valid (`rows`: their places in the batch, ascending), and letters for the others."""

    changes: Changes
    rows: Ints
    letters: list[DeadLetter]
    single_decodes: int


def decode_source(batch: SourceBatch) -> DecodedBatch:
    """Decode one batch; every message ends up in `changes` or in `letters`, none in both."""
    frame, odd = _columns(batch)
    if not odd:
        try:
            batch.source.decoder.check(frame, cast(Sequence[bytes], batch.values))
            rows, letters = _check_keys(batch, frame, np.arange(len(batch)))
            return DecodedBatch(_changes(batch.source, frame, rows), rows, letters, single_decodes=0)
        except UndecodableBatch:
            pass
    return _Isolation(batch, frame, list(batch.values)).decode(odd)


def _columns(batch: SourceBatch) -> tuple[pl.DataFrame, set[int]]:
    """A frame row per message, and the rows that could not be read."""
    source, doubt = batch.source, batch.source.doubt
    if not doubt.singly:
        if not doubt.torn and (frame := _parsed(source, batch.values, set())) is not None:
            return frame, set()
        torn = _torn(batch.values)
        if (frame := _parsed(source, batch.values, torn)) is not None:
            doubt.torn = DOUBTED_BATCHES if torn else max(0, doubt.torn - 1)
            return frame, torn
        doubt.singly = DOUBTED_BATCHES
    frame, odd = source.reader.read(batch.values)
    doubt.singly = DOUBTED_BATCHES if odd - _torn(batch.values) else max(0, doubt.singly - 1)
    return frame, odd


def _parsed(source: Source, values: Sequence[bytes | None], torn: set[int]) -> pl.DataFrame | None:
    """All messages with one call, torn ones as empty objects; None when that call refuses one."""
    if torn:
        values = list(values)
        for row in torn:
            values[row] = b"{}"
    elif None in values or max(map(len, cast(Sequence[bytes], values)), default=0) > MAX_EVENT_BYTES:
        return None
    try:
        return source.decoder.parse(cast(Sequence[bytes], values))
    except UndecodableBatch:
        return None


def _torn(values: Sequence[bytes | None]) -> set[int]:
    """Messages that are no plain object from their first byte to their last: the commonest pill."""
    column = pl.Series(values, dtype=pl.Binary)
    whole = column.bin.starts_with(b"{") & column.bin.ends_with(b"}") & ~column.bin.contains(b"\n")
    whole &= column.bin.size() <= MAX_EVENT_BYTES
    return set((~whole.fill_null(False)).arg_true())


def _changes(source: Source, frame: pl.DataFrame, rows: Ints) -> Changes:
    return changes_from_frame(frame if len(rows) == len(frame) else frame[rows], source.field)


def _check_keys(batch: SourceBatch, frame: pl.DataFrame, rows: Ints) -> tuple[Ints, list[DeadLetter]]:
    """Frame rows whose message key is the Pin's id as ASCII text, and letters for the others.

    `rows` are the batch rows of the frame. One comparison settles a batch in which all keys are right.
    """
    wanted = [b"%d" % pin for pin in frame["pin_id"].to_list()]
    keys = [batch.keys[row] for row in rows.tolist()] if len(rows) < len(batch) else batch.keys
    if wanted == keys:
        return np.arange(len(frame)), []
    right = [key == want for key, want in zip(keys, wanted, strict=True)]
    letters = [
        dead_letter(
            batch,
            int(rows[place]),
            DeadLetterReason.KEY_MISMATCH,
            f"the key is {(keys[place] or b'')[:64]!r}, expected {wanted[place]!r} (pin_id as text)",
        )
        for place, ok in enumerate(right)
        if not ok
    ]
    return np.flatnonzero(right), letters


@dataclass
class _Isolation:
    """The search for the bad rows of one batch.

    `values` are what the rows of `frame` were read from; rows written anew are added to both.
    """

    batch: SourceBatch
    frame: pl.DataFrame
    values: list[bytes | None]
    places: Ints = field(init=False)
    """Row of the batch -> its row in the frame, or -1 when it is turned down."""
    letters: list[DeadLetter] = field(default_factory=list)
    single_decodes: int = 0

    def __post_init__(self) -> None:
        self.places = np.arange(len(self.batch))

    def decode(self, odd: set[int]) -> DecodedBatch:
        """Read the odd rows and those that break a rule singly, then take the others in one go."""
        self._read_singly(odd)
        self._settle(self._against_rules)
        try:
            return self._decoded()
        except UndecodableBatch:
            # Contents that no rule tells (vectors, windows): searched for when something is there to find.
            self._settle(lambda: self._against_rules() | unreadable_rows(self.frame))
            return self._decoded()

    def _settle(self, find: Callable[[], set[int]]) -> None:
        """Read singly what is found; what is found again after that is turned down."""
        if self._read_singly(self._rows_of(find())):
            # NOTE: nothing is known that gets here; it keeps a disagreement of the two readers from
            # stopping the worker.
            self._turn_down(self._rows_of(find()))

    def _decoded(self) -> DecodedBatch:
        """What is left, as changes. Raises UndecodableBatch when something in it is unreadable."""
        rows = np.flatnonzero(self.places >= 0)
        if len(self.frame) == len(self.places):
            frame = self.frame.filter(pl.Series(self.places >= 0))  # faster than to gather
        else:
            frame = self.frame[self.places[rows]]
        kept, mismatched = _check_keys(self.batch, frame, rows)
        letters = sorted(self.letters + mismatched, key=lambda letter: letter.row)
        return DecodedBatch(
            _changes(self.batch.source, frame, kept), rows[kept], letters, self.single_decodes
        )

    def _against_rules(self) -> set[int]:
        """Rows of the frame that the bulk decoder refuses."""
        return self.batch.source.decoder.broken_rows(self.frame, cast(Sequence[bytes], self.values))

    def _rows_of(self, of_frame: set[int]) -> list[int]:
        """The rows of the batch, not turned down yet, that these rows of the frame stand for."""
        return np.flatnonzero(np.isin(self.places, list(of_frame))).tolist()

    def _read_singly(self, rows: Iterable[int]) -> bool:
        """Ask pydantic about each row; whether it accepts any."""
        accepted: list[int] = []
        written: list[bytes] = []
        for row in sorted(rows):
            self.single_decodes += 1
            try:
                written.append(encode(decode(self.batch.source.model, self.batch.values[row])))
            except InvalidMessage as error:
                self._reject(row, error.reason, error.detail)
            else:
                accepted.append(row)
        if accepted:
            self._replace(accepted, written)
        return bool(accepted)

    def _replace(self, rows: list[int], written: list[bytes]) -> None:
        fresh, odd = self.batch.source.reader.read(written)
        self.places[rows] = np.arange(len(rows)) + len(self.values)
        self.frame = pl.concat(_alike(self.frame, fresh))
        self.values += written
        self._turn_down(rows[place] for place in odd)

    def _turn_down(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._reject(row, DeadLetterReason.SCHEMA_INVALID, "not readable in bulk")

    def _reject(self, row: int, reason: DeadLetterReason, message: str) -> None:
        self.places[row] = -1
        self.letters.append(dead_letter(self.batch, row, reason, message))


def _alike(one: pl.DataFrame, other: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both with the same spelling of each vector: text, unless both have numbers."""
    odd = [name for name, dtype in one.schema.items() if dtype != other.schema[name]]
    return _as_texts(one, odd), _as_texts(other, odd)


def _as_texts(frame: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    lists = [frame[name] for name in names if frame.schema[name] != pl.String]
    return frame.with_columns(fp16_texts(one).alias(one.name) for one in lists)
