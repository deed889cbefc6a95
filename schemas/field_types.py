"""Declared fields as plain shapes: what the Avro and Protobuf writers walk instead of annotations."""

import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.json_schema import WithJsonSchema

Kind = Literal["integer", "number", "boolean", "text", "vector", "list", "map", "record"]

_SCALARS: dict[type, Kind] = {int: "integer", float: "number", bool: "boolean", str: "text"}


@dataclass(frozen=True)
class Shape:
    """The shape of a value: `item` of a list or a map, `model` of a record."""

    kind: Kind
    item: "Shape | None" = None
    model: type[BaseModel] | None = None


@dataclass(frozen=True)
class DeclaredField:
    """One field of an event type. `nullable`: null, or absence, means that it says nothing."""

    name: str
    shape: Shape
    nullable: bool
    required: bool
    default: Any
    doc: str


def declared_fields(model: type[BaseModel]) -> list[DeclaredField]:
    """Fields of `model` in declaration order. Raises TypeError for an annotation that has no shape here."""
    return [_field(name, model) for name in model.model_fields]


def nested_records(model: type[BaseModel]) -> list[type[BaseModel]]:
    """`model` and the records inside it, each once, the outermost first."""
    found = [model]
    for field in declared_fields(model):
        shape: Shape | None = field.shape
        while shape is not None:
            if shape.model is not None:
                found += [one for one in nested_records(shape.model) if one not in found]
            shape = shape.item
    return found


def _field(name: str, model: type[BaseModel]) -> DeclaredField:
    info = model.model_fields[name]
    annotation, nullable = _without_null(info.annotation)
    return DeclaredField(
        name=name,
        shape=_shape(annotation, info.metadata),
        nullable=nullable,
        required=info.is_required(),
        default=None if info.is_required() else info.get_default(call_default_factory=True),
        doc=info.description or "",
    )


def _without_null(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [one for one in get_args(annotation) if one is not type(None)]
        if len(inner) == 1:
            return inner[0], True
    return annotation, False


def _shape(annotation: Any, metadata: list[Any]) -> Shape:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shape(arguments[0], [*metadata, *arguments[1:]])
    if any(_says_vector(one) for one in metadata):
        return Shape("vector")
    if origin is Literal:
        return Shape(_SCALARS[type(arguments[0])])
    if origin is list:
        return Shape("list", item=_shape(arguments[0], []))
    if origin is dict:
        return Shape("map", item=_shape(arguments[1], []))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Shape("record", model=annotation)
    if annotation in _SCALARS:
        return Shape(_SCALARS[annotation])
    raise TypeError(f"no shape for {annotation!r}: add it to schemas/field_types.py")


def _says_vector(metadata: Any) -> bool:
    if not isinstance(metadata, WithJsonSchema) or metadata.json_schema is None:
        return False
    return any(one.get("contentEncoding") == "base64" for one in metadata.json_schema.get("oneOf", []))
