"""Avro payloads → JSON of an event type, read with the writer's schema."""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
from pydantic import BaseModel

from schemas.errors import DeadLetterReason, InvalidMessage
from schemas.field_types import declared_fields

from .registry_extra import require_extra

Schema = Any
"""An Avro schema as parsed JSON: a name, a list (a union) or an object."""

MAX_FIELDS = 1000
"""Of all records of a schema together. Ours have 40; each one read is an object, bytes or not."""

_PLAIN_LOGICAL_TYPES = {None, "timestamp-millis", "uuid"}
"""Logical types whose bare value means to us what it says: milliseconds, and text."""


def avro_reader(
    model: type[BaseModel], text: str, references: Sequence[tuple[str, str]]
) -> Callable[[bytes], bytes]:
    """A function from one payload to the JSON of `model`; fields that `model` lacks are left out.

    Raises InvalidMessage for a schema that cannot be read; the function does for a payload that does not
    fit it. Raises Refused when the registry extra is not installed.
    """
    with require_extra():
        from fastavro import schemaless_reader  # noqa: PLC0415 - an optional extra
    schema = _parsed(model, text, references)
    vectors = {field.name for field in declared_fields(model) if field.shape.kind == "vector"}
    writes = {one["name"] for one in schema["fields"]}
    names = [name for name in model.model_fields if name in writes]

    def to_json(payload: bytes) -> bytes:
        stream = io.BytesIO(payload)
        try:
            record = schemaless_reader(stream, schema, None)
        except Exception as error:  # whatever a foreign decoder makes of garbage, it is no message
            raise _invalid(DeadLetterReason.DECODE_ERROR, "does not fit its Avro schema", error) from error
        if left := len(payload) - stream.tell():
            raise InvalidMessage(DeadLetterReason.DECODE_ERROR, f"{left} bytes after the Avro record")
        return _json(cast(Mapping[str, Any], record), names, vectors)

    return to_json


def _json(record: Mapping[str, Any], names: Sequence[str], vectors: set[str]) -> bytes:
    fields = {name: value for name in names if (value := record[name]) is not None}
    for name in vectors & fields.keys():
        if isinstance(fields[name], bytes):
            fields[name] = base64.b64encode(fields[name]).decode("ascii")
    try:
        return orjson.dumps(fields)
    except TypeError as error:  # bytes where text or a number belongs; integers over 64 bits
        raise _invalid(DeadLetterReason.SCHEMA_INVALID, "holds what JSON cannot", error) from error


def _invalid(reason: DeadLetterReason, what: str, error: Exception) -> InvalidMessage:
    return InvalidMessage(reason, f"{what}: {type(error).__name__}: {str(error)[:200]}")


def _parsed(model: type[BaseModel], text: str, references: Sequence[tuple[str, str]]) -> Schema:
    from fastavro import parse_schema  # noqa: PLC0415

    named: dict[str, Schema] = {}
    try:
        for _, one in references:
            parse_schema(_without_logical_types(json.loads(one)), named)
        schema = json.loads(text)
        _check_logical_types(model, schema)
        parsed = parse_schema(_without_logical_types(schema), named)
        _Widths(named).of(parsed)
    except InvalidMessage:
        raise
    except Exception as error:  # a foreign parser, again
        raise _invalid(DeadLetterReason.UNKNOWN_VERSION, "no readable Avro schema", error) from error
    if not isinstance(parsed, dict) or parsed["type"] != "record":
        raise InvalidMessage(DeadLetterReason.UNKNOWN_VERSION, "the Avro schema is no record")
    return parsed


def _check_logical_types(model: type[BaseModel], schema: Schema) -> None:
    """Refuse a field of ours whose bare value would mean something else: days, microseconds, decimals."""
    fields = schema.get("fields", ()) if isinstance(schema, dict) else ()
    for one in fields:
        named = {
            branch.get("logicalType")
            for branch in (one["type"] if isinstance(one["type"], list) else [one["type"]])
            if isinstance(branch, dict)
        }
        if one["name"] in model.model_fields and (odd := named - _PLAIN_LOGICAL_TYPES):
            raise InvalidMessage(
                DeadLetterReason.SCHEMA_INVALID,
                f"{one['name']} is written as {sorted(map(str, odd))[0][:40]}; only timestamp-millis is read",
            )


def _without_logical_types(schema: Schema) -> Schema:
    if isinstance(schema, list):
        return [_without_logical_types(one) for one in schema]
    if isinstance(schema, dict):
        return {name: _without_logical_types(one) for name, one in schema.items() if name != "logicalType"}
    return schema


@dataclass
class _Widths:
    """Least bytes that a value of each type takes: 0, or 1 for more.

    Raises InvalidMessage for what no event of ours needs and a hostile writer could use: types inside
    themselves (nested as deep as the payload is long), arrays whose items take no bytes (as long as the
    payload says), and records of records that take none (each level may double them).
    """

    named: Mapping[str, Schema]
    fields: int = 0
    known: dict[str, int | None] = field(default_factory=dict)
    """None: being looked at."""

    def of(self, schema: Schema) -> int:
        if isinstance(schema, list):
            for branch in schema:
                self.of(branch)
            return 1  # the branch's number
        if isinstance(schema, str):
            return self._of_name(schema) if schema in self.named else int(schema != "null")
        type_ = schema["type"]
        if type_ in ("array", "map"):
            item = self.of(schema["items" if type_ == "array" else "values"])
            if type_ == "array" and not item:
                raise InvalidMessage(
                    DeadLetterReason.UNKNOWN_VERSION, "the Avro schema has an array of items without bytes"
                )
            return 1
        return self._of_name(schema["name"]) if "name" in schema else self.of(type_)

    def _of_name(self, name: str) -> int:
        if name not in self.known:
            self.known[name] = None
            self.known[name] = self._of_definition(self.named[name])
        width = self.known[name]
        if width is None:
            raise InvalidMessage(
                DeadLetterReason.UNKNOWN_VERSION, f"the Avro schema has {name[:100]} inside itself"
            )
        return width

    def _of_definition(self, schema: Schema) -> int:
        if schema["type"] == "fixed":
            return int(schema["size"] > 0)
        fields = schema.get("fields", ())
        self.fields += len(fields)
        if self.fields > MAX_FIELDS:
            raise InvalidMessage(
                DeadLetterReason.UNKNOWN_VERSION, f"the Avro schema has over {MAX_FIELDS} fields"
            )
        return max([self._of_field(one["type"]) for one in fields], default=int(schema["type"] == "enum"))

    def _of_field(self, schema: Schema) -> int:
        width = self.of(schema)
        if not width and schema not in ("null", {"type": "null"}):
            raise InvalidMessage(
                DeadLetterReason.UNKNOWN_VERSION,
                "the Avro schema has a record or fixed without bytes in a field",
            )
        return width
