"""Batches of messages → columns, with the schema taken from the same pydantic declaration.

This is the hot path's decoder: one call for thousands of messages instead of one per message. It
accepts only what it can prove in bulk; a batch that it refuses is read again message by message, by
`rows.RowReader` into the same columns or by `codec.decode`, which names the bad ones
(docs/adr/0002-batch-decoder.md says why polars parses and Arrow does not).
"""

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import orjson
import polars as pl
import pyarrow as pa
from pydantic import BaseModel

_NO_TEXT = r"^(?:[\[{]|-?[0-9][0-9.]*$|true$|false$)"
"""What polars writes into a text column for JSON that is no text."""

_SCALARS: dict[type, pa.DataType] = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}


class UndecodableBatch(Exception):
    """At least one message of the batch is not provably valid in bulk; read them one by one."""


def arrow_schema(model: type[BaseModel]) -> pa.Schema:
    """Arrow schema of `model`: a nullable field for each declared one, in declaration order.

    Raises TypeError for an annotation that has no Arrow type here.
    """
    return pa.schema(
        [pa.field(name, _arrow_type(field.annotation)) for name, field in model.model_fields.items()]
    )


def _arrow_type(annotation: Any) -> pa.DataType:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _arrow_type(get_args(annotation)[0])
    if origin is Literal:
        return _SCALARS[type(get_args(annotation)[0])]
    if origin in (Union, types.UnionType):
        inner = [arg for arg in get_args(annotation) if arg is not type(None)]
        if len(inner) == 1:
            return _arrow_type(inner[0])
    if origin is list:
        return pa.list_(_arrow_type(get_args(annotation)[0]))
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    raise TypeError(f"no Arrow type for {annotation!r}: add it to schemas/batch.py")


def vector_fields(model: type[BaseModel]) -> list[str]:
    """Names of the fields that hold a vector, in either spelling."""
    properties = model.model_json_schema()["properties"]
    return [name for name in model.model_fields if _is_vector(_spec(properties[name]))]


class BatchDecoder:
    """Decodes and validates batches of one event type, by the rules of its pydantic declaration.

    The rules are read from the model's JSON Schema, so a new field or bound needs no second
    declaration here. `decode` returns a frame whose every row pydantic would accept too, but for
    model-level validators and vector contents, which the caller checks on the columns. Null is
    read as «absent» for every optional field, also where pydantic wants it left out.

    NOTE: of a key that stands twice in one object polars keeps the first value, pydantic the last;
    JSON leaves open which, and none of our encoders writes such an object. In a field that the model
    does not know half a surrogate pair passes here and not there; nothing of that field is kept.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        columns = pl.Schema(arrow_schema(model))
        properties = model.model_json_schema()["properties"]
        self._columns: dict[str, Any] = dict(columns)
        self._required = [name for name, field in model.model_fields.items() if field.is_required()]
        self._row_rules = {name: _rules(name, _spec(properties[name])) for name in model.model_fields}
        self._rules = {
            name: [rule.any(ignore_nulls=True).alias(f"{name}#{number}") for number, rule in enumerate(rules)]
            for name, rules in self._row_rules.items()
        }
        self._vectors = vector_fields(model)
        self._texts = [
            name
            for name, dtype in self._columns.items()
            if dtype == pl.String and "enum" not in _spec(properties[name])
        ]
        self._array_columns = self._columns | dict.fromkeys(self._vectors, pl.List(pl.Float64))
        self._array_starts = [f'"{name}":['.encode() for name in self._vectors]

    def decode(self, values: Sequence[bytes]) -> pl.DataFrame:
        """Decode JSON objects, one row each, in order; absent fields are null, unknown ones ignored.

        Vectors come as base64 text or as lists of numbers, whichever the batch holds.
        Raises UndecodableBatch when any message is not provably a valid event.
        """
        frame = self.parse(values)
        self.check(frame, values)
        return frame

    def check(self, frame: pl.DataFrame, values: Sequence[bytes]) -> None:
        """The second half: raises UndecodableBatch when a row breaks the declaration."""
        self._validate(frame)
        self._check_texts(frame, values)

    def parse(self, values: Sequence[bytes]) -> pl.DataFrame:
        """The first half of `decode`: the columns, not yet checked against the declaration.

        Raises UndecodableBatch when a message is not JSON or a value has not its field's type.
        """
        payload = b"\n".join(values)
        if payload.count(b"\n") != len(values) - 1:
            raise UndecodableBatch("a message holds a line break")
        try:
            frame = self._read(payload)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise UndecodableBatch(str(error)[:200]) from error
        if frame.height != len(values):
            raise UndecodableBatch(f"{len(values)} messages gave {frame.height} rows")
        return frame

    def broken_rows(self, frame: pl.DataFrame, values: Sequence[bytes]) -> set[int]:
        """The rows of a parsed batch for which `decode` would refuse it."""
        filled = [name for name in frame.columns if frame[name].null_count() < frame.height]
        rules = [rule for name in filled for rule in self._row_rules[name]]
        rules += [pl.col(name).is_null() for name in self._required]
        broken = frame.select(pl.any_horizontal([rule.fill_null(False) for rule in rules]).alias("broken"))
        return set(broken["broken"].arg_true()) | {row for _, row in self._without_text(frame, values)}

    def _read(self, payload: bytes) -> pl.DataFrame:
        # A guess: what it misses is seen in the columns below, and if it is wrong the batch is refused.
        if any(start in payload for start in self._array_starts):
            return pl.read_ndjson(payload, schema=self._array_columns)
        frame = pl.read_ndjson(payload, schema=self._columns)
        arrays = [pl.col(name).str.starts_with("[").any() for name in self._vectors]
        if arrays and any(frame.select(arrays).row(0)):
            return pl.read_ndjson(payload, schema=self._array_columns)
        return frame

    def _check_texts(self, frame: pl.DataFrame, values: Sequence[bytes]) -> None:
        """Refuse what polars made text of: it reads the number 7 and the array [7] as "7" and "[7]".

        Only rows whose text looks like that are parsed again, so plain batches pay for one search.
        """
        for name, row in self._without_text(frame, values):
            raise UndecodableBatch(f"{name} is no text in message {row}")

    def _without_text(self, frame: pl.DataFrame, values: Sequence[bytes]) -> Iterator[tuple[str, int]]:
        for name in self._texts:
            if frame.schema[name] != pl.String or frame[name].null_count() == frame.height:
                continue
            for row in frame[name].str.contains(_NO_TEXT).arg_true():
                if not _holds_text(values[row], name):
                    yield name, row

    def _validate(self, frame: pl.DataFrame) -> None:
        nulls = frame.null_count().row(0)
        filled = {name for name, count in zip(frame.columns, nulls, strict=True) if count < frame.height}
        for name, count in zip(frame.columns, nulls, strict=True):
            if count and name in self._required:
                raise UndecodableBatch(f"{name} is missing in {count} messages")
        rules = [rule for name in frame.columns if name in filled for rule in self._rules[name]]
        if not rules:
            return
        broken = frame.select(rules).row(0)
        if any(broken):
            names = [
                frame_name for frame_name, bad in zip(frame.select(rules).columns, broken, strict=True) if bad
            ]
            raise UndecodableBatch(f"broken rules: {', '.join(names)}")


def _spec(property_schema: dict[str, Any]) -> dict[str, Any]:
    """The non-null alternative of an optional property."""
    alternatives = [one for one in property_schema.get("anyOf", []) if one.get("type") != "null"]
    return alternatives[0] if len(alternatives) == 1 else property_schema


def _holds_text(value: bytes, name: str) -> bool:
    try:
        return isinstance(orjson.loads(value).get(name), str)
    except ValueError:
        return False


def _is_vector(spec: dict[str, Any]) -> bool:
    return any(one.get("contentEncoding") == "base64" for one in spec.get("oneOf", []))


def _rules(name: str, spec: dict[str, Any]) -> list[pl.Expr]:
    """Expressions that are true in the rows of the column that break the declaration."""
    column = pl.col(name)
    broken: list[pl.Expr] = []
    if "minimum" in spec:
        broken.append(column < spec["minimum"])
    if "exclusiveMaximum" in spec:
        broken.append(column >= spec["exclusiveMaximum"])
    if "maxLength" in spec:
        broken.append(column.str.len_chars() > spec["maxLength"])
    if "minLength" in spec:
        broken.append(column.str.len_chars() < spec["minLength"])
    if "pattern" in spec:
        broken.append(~column.str.contains(spec["pattern"]))
    if spec.get("type") == "string" and "enum" not in spec:
        # polars reads a lone surrogate as NUL where pydantic refuses it: let pydantic decide.
        broken.append(column.str.contains("\x00", literal=True))
    if "enum" in spec:
        broken.append(~column.is_in(spec["enum"]))
    if spec.get("type") == "array":
        broken += _array_rules(column, spec)
    return broken


def _array_rules(column: pl.Expr, spec: dict[str, Any]) -> list[pl.Expr]:
    element, items = pl.element(), spec.get("items", {})
    bad = element.is_null()
    if "minimum" in items:
        bad = bad | (element < items["minimum"])
    if "exclusiveMaximum" in items:
        bad = bad | (element >= items["exclusiveMaximum"])
    if "enum" in items:
        bad = bad | ~element.is_in(items["enum"])
    length = column.list.len()
    return [
        length < spec.get("minItems", 0),
        length > spec.get("maxItems", 2**31),
        column.list.eval(bad).list.any(),
    ]
