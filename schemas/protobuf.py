"""Event types as Protobuf messages: the .proto text, and the descriptor for use without protoc.

Every scalar is `optional` and every list that may be absent is wrapped in a message, because an update
that says nothing of a price is not one that sets it to 0.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from .field_numbers import FIELD_NUMBERS
from .field_types import DeclaredField, Shape, declared_fields, nested_records

PACKAGE = "skewless"
LIST_VALUES = "values"
"""The one field of a message that wraps a list."""
VECTOR_FP16, VECTOR_NUMBERS = "fp16", "numbers"
"""The fields of a message that holds a vector; exactly one of them is set."""

Label = Literal["optional", "repeated", "map", ""]

_SCALARS = {"integer": "int64", "number": "double", "boolean": "bool", "text": "string"}
_LISTS = {"integer": "Integers", "number": "Numbers", "boolean": "Booleans", "text": "Texts"}


@dataclass(frozen=True)
class ProtoField:
    """One line of a message. Of a map, `type` is the value's; keys are strings."""

    label: Label
    type: str
    name: str
    number: int
    doc: str = ""


@dataclass(frozen=True)
class ProtoMessage:
    """One message; `reserved` are the numbers and names of fields that it no longer has."""

    name: str
    doc: str
    fields: tuple[ProtoField, ...]
    reserved: tuple[tuple[str, int], ...] = ()


def proto_messages(model: type[BaseModel]) -> list[ProtoMessage]:
    """The messages of `model`'s file: its own first, then those inside it, then the wrappers they use.

    Raises KeyError for a field that has no number in `field_numbers`.
    """
    messages = [_message(one) for one in nested_records(model)]
    used = {field.type for message in messages for field in message.fields}
    return messages + [one for one in _wrappers() if one.name in used]


def proto_text(model: type[BaseModel]) -> str:
    """The .proto file of `model`, stable from run to run."""
    parts = ['syntax = "proto3";\n', f"package {PACKAGE};\n"]
    parts += [_message_text(message) for message in proto_messages(model)]
    return "\n".join(parts)


def file_descriptor(model: type[BaseModel]) -> bytes:
    """The serialised FileDescriptorProto of the same file. Needs the protobuf package."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto  # noqa: PLC0415 - an optional extra

    file = FileDescriptorProto(name=f"{PACKAGE}/{model.__name__}.proto", package=PACKAGE, syntax="proto3")
    for message in proto_messages(model):
        described = file.message_type.add(name=message.name)
        for field in message.fields:
            _describe(field, described)
    serialised: bytes = file.SerializeToString(deterministic=True)
    return serialised


def _message(model: type[BaseModel]) -> ProtoMessage:
    numbers = FIELD_NUMBERS[model.__name__]
    declared = declared_fields(model)
    names = {field.name for field in declared}
    return ProtoMessage(
        model.__name__,
        (model.__doc__ or "").split("\n")[0],
        tuple(sorted((_proto_field(one, numbers[one.name]) for one in declared), key=lambda one: one.number)),
        tuple((name, number) for name, number in numbers.items() if name not in names),
    )


def _proto_field(field: DeclaredField, number: int) -> ProtoField:
    shape = field.shape
    if shape.kind == "list" and shape.item is not None:
        if not field.nullable:
            return ProtoField("repeated", _type(shape.item), field.name, number, field.doc)
        return ProtoField("", _LISTS[shape.item.kind], field.name, number, field.doc)
    if shape.kind == "map" and shape.item is not None:
        return ProtoField("map", _type(shape.item), field.name, number, field.doc)
    label: Label = "optional" if shape.kind in _SCALARS else ""
    return ProtoField(label, _type(shape), field.name, number, field.doc)


def _type(shape: Shape) -> str:
    if shape.model is not None:
        return shape.model.__name__
    return "Vector" if shape.kind == "vector" else _SCALARS[shape.kind]


def _wrappers() -> list[ProtoMessage]:
    vector = ProtoMessage(
        "Vector",
        "One of the two: little-endian fp16, or numbers.",
        (ProtoField("", "bytes", VECTOR_FP16, 1), ProtoField("repeated", "float", VECTOR_NUMBERS, 2)),
    )
    lists = [
        ProtoMessage(
            name, "A list that may be absent.", (ProtoField("repeated", _SCALARS[kind], LIST_VALUES, 1),)
        )
        for kind, name in _LISTS.items()
    ]
    return [vector, *lists]


def _message_text(message: ProtoMessage) -> str:
    lines = [f"// {message.doc}", f"message {message.name} {{"]
    if message.reserved:
        numbers = ", ".join(str(number) for _, number in message.reserved)
        names = ", ".join(f'"{name}"' for name, _ in message.reserved)
        lines += [f"  reserved {numbers};", f"  reserved {names};"]
    for field in message.fields:
        type_ = f"map<string, {field.type}>" if field.label == "map" else field.type
        label = f"{field.label} " if field.label in ("optional", "repeated") else ""
        doc = f"  // {field.doc}" if field.doc else ""
        lines.append(f"  {label}{type_} {field.name} = {field.number};{doc}")
    return "\n".join([*lines, "}", ""])


def _describe(field: ProtoField, message: object) -> None:
    """Add one field to a DescriptorProto, with what protoc adds for `optional` and for maps."""
    from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto  # noqa: PLC0415

    assert isinstance(message, DescriptorProto)
    codes = {"int64": 3, "double": 1, "bool": 8, "string": 9, "bytes": 12, "float": 2}
    described = message.field.add(name=field.name, number=field.number)
    described.label = FieldDescriptorProto.LABEL_OPTIONAL
    if field.label == "map":
        entry = message.nested_type.add(name="".join(map(str.capitalize, field.name.split("_"))) + "Entry")
        entry.options.map_entry = True
        _describe(ProtoField("", "string", "key", 1), entry)
        _describe(ProtoField("", field.type, "value", 2), entry)
        described.label = FieldDescriptorProto.LABEL_REPEATED
        described.type = FieldDescriptorProto.TYPE_MESSAGE
        described.type_name = f".{PACKAGE}.{message.name}.{entry.name}"
        return
    if field.label == "repeated":
        described.label = FieldDescriptorProto.LABEL_REPEATED
    if field.type in codes:
        described.type = codes[field.type]
    else:
        described.type = FieldDescriptorProto.TYPE_MESSAGE
        described.type_name = f".{PACKAGE}.{field.type}"
    if field.label == "optional":
        described.proto3_optional = True
        described.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{field.name}")
