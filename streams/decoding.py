"""Messages → changes in bulk, and the search for the bad ones when a batch is refused.

A clean batch is decoded with one call. A batch that the bulk decoder refuses is screened row by row
for what is cheap to see (syntax, missing fields, wrong types), the suspects are read by pydantic, and
the rules then point at rows. Only what is left after that is cut into parts to corner the others.
What pydantic accepts, whatever it looks like, is written anew in the form that the bulk decoder
reads: nothing valid is turned down.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
from pydantic import BaseModel

from features.pin_state import Changes, changes_from_frame, unreadable_rows
from schemas.batch import UndecodableBatch, arrow_schema
from schemas.codec import MAX_EVENT_BYTES, decode, encode
from schemas.errors import DeadLetterReason, InvalidMessage

from .sources import DeadLetter, Ints, Source, SourceBatch, dead_letter

PARTS = 8
SINGLES = 16
"""A refused part of at most this many rows is read row by row."""

Kinds = dict[str, frozenset[type]]


@dataclass(frozen=True)
class DecodedBatch:
    """The rows that are valid (`rows`: their places in the batch, ascending), and letters for the others."""

    changes: Changes
    rows: Ints
    letters: list[DeadLetter]
    single_decodes: int


def decode_source(batch: SourceBatch) -> DecodedBatch:
    """Decode one batch; every message ends up in `changes` or in `letters`, none in both."""
    frame = None
    try:
        if not _of_plain_size(batch.values):
            raise UndecodableBatch("a message has no value or is too large")
        values = cast(Sequence[bytes], batch.values)
        frame = batch.source.decoder.parse(values)
        batch.source.decoder.check(frame, values)
        rows, letters = _check_keys(batch, frame, np.arange(len(batch)))
        changes = _changes(batch.source, frame, rows)
    except UndecodableBatch:
        return _Isolation(batch).decode(frame)
    return DecodedBatch(changes, rows, letters, single_decodes=0)


def _of_plain_size(values: Sequence[bytes | None]) -> bool:
    return None not in values and max(map(len, values), default=0) <= MAX_EVENT_BYTES  # type: ignore[arg-type]


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
    """The search for the bad rows of one refused batch."""

    batch: SourceBatch
    values: dict[int, bytes] = field(default_factory=dict)
    """Row -> value of every row not turned down yet, rewritten where only pydantic could read it."""
    letters: list[DeadLetter] = field(default_factory=list)
    single_decodes: int = 0

    def decode(self, parsed: pl.DataFrame | None) -> DecodedBatch:
        """Find the bad rows, decode the others in one go. `parsed`: the batch's columns, if it has any."""
        if parsed is not None:
            self.values = dict(enumerate(cast(Sequence[bytes], self.batch.values)))
        frame = self._screened() if parsed is None else parsed
        rows = list(self.values)
        values = list(self.values.values())
        suspects = self.batch.source.decoder.broken_rows(frame, values) | unreadable_rows(frame)
        if any([self._read_single(rows[place], values[place]) for place in sorted(suspects)]):
            frame = self._anew()
        elif suspects:
            frame = frame.filter(~pl.int_range(frame.height, eager=True).is_in(sorted(suspects)))
        return self._decoded(frame)

    def _screened(self) -> pl.DataFrame:
        """Columns of every row that parses; the others are read by pydantic."""
        self._screen()
        try:
            return self._parse()
        except UndecodableBatch:
            self._corner(list(self.values))
        try:
            return self._parse()
        except UndecodableBatch:
            return self._anew()

    def _parse(self) -> pl.DataFrame:
        return self.batch.source.decoder.parse(list(self.values.values()))

    def _anew(self) -> pl.DataFrame:
        """Everything that is left, some of it rewritten; what is refused now is cornered in bulk form."""
        rows = list(self.values)
        if self._refusal(rows) is not None:
            self._corner(rows)
            rows = list(self.values)
        if (refusal := self._refusal(rows)) is not None:
            self._turn_down_unreadable(rows, refusal)
        return self._frame(list(self.values))

    def _decoded(self, frame: pl.DataFrame) -> DecodedBatch:
        batch_rows = np.array(list(self.values), np.int64)
        kept, mismatched = _check_keys(self.batch, frame, batch_rows)
        changes = _changes(self.batch.source, frame, kept)
        letters = sorted(self.letters + mismatched, key=lambda letter: letter.row)
        return DecodedBatch(changes, batch_rows[kept], letters, self.single_decodes)

    def _frame(self, rows: list[int]) -> pl.DataFrame:
        if not rows:
            return pl.DataFrame(schema=pl.Schema(arrow_schema(self.batch.source.model)))
        return self.batch.source.decoder.decode([self.values[row] for row in rows])

    def _refusal(self, rows: list[int]) -> str | None:
        """Why the bulk decoder refuses these rows, or None when it does not."""
        try:
            changes_from_frame(self._frame(rows), self.batch.source.field)
        except UndecodableBatch as error:
            return str(error)
        return None

    def _screen(self) -> None:
        """Read by pydantic every row that does not have the plain form: suspects, in one cheap pass."""
        kinds, required = _kinds(self.batch.source.model)
        known: dict[tuple[object, ...], bool] = {}
        for row, value in enumerate(self.batch.values):
            if value is None or not _is_plain(value, kinds, required, known):
                self._read_single(row, value)
            else:
                self.values[row] = value

    def _read_single(self, row: int, value: bytes | None) -> bool:
        """Whether pydantic accepts it."""
        self.single_decodes += 1
        try:
            self.values[row] = encode(decode(self.batch.source.model, value))
        except InvalidMessage as error:
            self.values.pop(row, None)
            self.letters.append(dead_letter(self.batch, row, error.reason, error.detail))
            return False
        return True

    def _corner(self, rows: list[int]) -> None:
        """Cut a refused set of rows into parts until only a few rows of each are left to read singly."""
        if len(rows) <= SINGLES:
            for row in rows:
                self._read_single(row, self.values[row])
            return
        step = -(-len(rows) // PARTS)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            if self._refusal(part) is not None:
                self._corner(part)

    def _turn_down_unreadable(self, rows: list[int], refusal: str) -> None:
        """Rows that pydantic accepts and the bulk decoder cannot read in any form go to the letters.

        NOTE: nothing is known that gets here; it keeps a disagreement of the two from stopping the worker.
        """
        for row in rows:
            if self._refusal([row]) is not None:
                self.values.pop(row)
                reason = DeadLetterReason.SCHEMA_INVALID
                self.letters.append(dead_letter(self.batch, row, reason, f"not readable in bulk: {refusal}"))


def _kinds(model: type[BaseModel]) -> tuple[Kinds, frozenset[str]]:
    """JSON types of each field in its plain form, and the fields that have to be there."""
    required = frozenset(name for name, one in model.model_fields.items() if one.is_required())
    kinds = {
        one.name: _kind(one.type) | (frozenset() if one.name in required else frozenset({type(None)}))
        for one in arrow_schema(model)
    }
    return kinds, required


_SCALAR_KINDS: dict[Any, frozenset[type]] = {
    pa.int64(): frozenset({int}),
    pa.float64(): frozenset({int, float}),
    pa.bool_(): frozenset({bool}),
    pa.string(): frozenset({str}),
}


def _kind(arrow_type: Any) -> frozenset[type]:
    return frozenset({list}) if pa.types.is_list(arrow_type) else _SCALAR_KINDS[arrow_type]


def _is_plain(
    value: bytes, kinds: Kinds, required: frozenset[str], known: dict[tuple[object, ...], bool]
) -> bool:
    """One line of JSON, an object whose known fields all have their plain type.

    `known` remembers the answer per set of names and types, of which a batch has a handful.
    """
    if len(value) > MAX_EVENT_BYTES or b"\n" in value:
        return False
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(fields, dict):
        return False
    signature = (*fields, *map(type, fields.values()))
    if (answer := known.get(signature)) is None:
        answer = required <= fields.keys() and all(
            type(one) in kinds[name] for name, one in fields.items() if name in kinds
        )
        known[signature] = answer
    return answer
