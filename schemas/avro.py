"""Event types as Avro schemas, for producers who register theirs."""

import json
from typing import Any

from pydantic import BaseModel

from .field_types import DeclaredField, Shape, declared_fields

NAMESPACE = "skewless"

_SCALARS = {"integer": "long", "number": "double", "boolean": "boolean", "text": "string"}

VECTOR = ["bytes", "string", {"type": "array", "items": "float"}]
"""Little-endian fp16 as bytes or as their base64 text, or numbers: what the JSON form takes, and bytes."""


def avro_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The Avro record of `model`: a field that may be absent is a union with null, its default null.

    Literals are strings here: a reader with an older Avro enum could not read a value added since. What
    is allowed in them, and every bound, is checked on arrival.
    """
    return _record(model, set())


def avro_text(model: type[BaseModel]) -> str:
    """`avro_schema` as text, stable from run to run."""
    return json.dumps(avro_schema(model), indent=2) + "\n"


def _record(model: type[BaseModel], named: set[str]) -> dict[str, Any]:
    named.add(model.__name__)
    return {
        "type": "record",
        "name": model.__name__,
        "namespace": NAMESPACE,
        "doc": (model.__doc__ or "").split("\n")[0],
        "fields": [_field(field, named) for field in declared_fields(model)],
    }


def _field(field: DeclaredField, named: set[str]) -> dict[str, Any]:
    type_ = _type(field.shape, named)
    if field.nullable:
        # The default's type has to come first in a union.
        type_ = ["null", *(type_ if isinstance(type_, list) else [type_])]
    said = {"doc": field.doc} if field.doc else {}
    default = {} if field.required else {"default": field.default}
    return {"name": field.name, "type": type_, **said, **default}


def _type(shape: Shape, named: set[str]) -> Any:
    if shape.kind == "vector":
        return list(VECTOR)
    if shape.model is not None:
        name = shape.model.__name__
        return f"{NAMESPACE}.{name}" if name in named else _record(shape.model, named)
    if shape.item is not None:
        item = _type(shape.item, named)
        return {"type": "array", "items": item} if shape.kind == "list" else {"type": "map", "values": item}
    return _SCALARS[shape.kind]
