"""Protobuf payloads → JSON of an event type, read with the writer's schema."""

import base64
import binascii
import importlib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel

from schemas.errors import DeadLetterReason, InvalidMessage
from schemas.field_types import DeclaredField, Shape, declared_fields
from schemas.protobuf import LIST_VALUES, VECTOR_FP16, VECTOR_NUMBERS, file_descriptor, proto_text

from .registry_extra import require_extra

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool

Convert = Callable[[Any], Any]
"""What protobuf gives for one field → what JSON takes; None leaves it out."""

MAX_MESSAGE_INDEXES = 16

_WELL_KNOWN = ("any", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers", "descriptor")
_WIRE_KINDS = {
    "integer": {3, 4, 5, 6, 7, 13, 15, 16, 17, 18},
    "number": {1, 2},
    "boolean": {8},
    "text": {9},
}
"""Codes of FieldDescriptor.type by the kind of value that they give."""
_BYTES, _TEXT, _MESSAGE, _FLOATS = 12, 9, 11, {1, 2}


def protobuf_reader(
    model: type[BaseModel], text: str, references: Sequence[tuple[str, str]]
) -> Callable[[bytes], bytes]:
    """A function from what follows the schema id (message indexes, message) to the JSON of `model`.

    `text` is the base64 of a FileDescriptorProto, or our own .proto. Fields are taken by name, so their
    numbers may be the writer's own. Raises InvalidMessage for a schema that cannot be read; the function
    does for a payload that does not fit. Raises Refused when the registry extra is not installed.
    """
    with require_extra():
        import google.protobuf  # noqa: F401, PLC0415 - an optional extra
    pool, file_name = _pool(model, text, references)
    file = pool.FindFileByName(file_name)
    top = list(file.message_types_by_name.values())
    readers: dict[tuple[int, ...], Callable[[bytes], bytes]] = {}

    def to_json(framed: bytes) -> bytes:
        indexes, start = _message_indexes(framed)
        if indexes not in readers:
            readers[indexes] = _message_reader(model, _message_at(top, indexes))
        return readers[indexes](framed[start:])

    return to_json


def _message_reader(model: type[BaseModel], described: "Descriptor") -> Callable[[bytes], bytes]:
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from google.protobuf.message_factory import GetMessageClass  # noqa: PLC0415

    parse = GetMessageClass(described).FromString
    converters = _converters(model, described)

    def to_json(payload: bytes) -> bytes:
        try:
            message = parse(payload)
        except DecodeError as error:
            raise InvalidMessage(
                DeadLetterReason.DECODE_ERROR, f"does not fit its Protobuf schema: {str(error)[:200]}"
            ) from error
        try:
            return orjson.dumps(_read(message, converters))
        except (TypeError, ValueError) as error:  # proto2 gives a string that is no UTF-8 as bytes
            raise InvalidMessage(
                DeadLetterReason.SCHEMA_INVALID, f"holds what JSON cannot: {str(error)[:200]}"
            ) from error

    return to_json


def _converters(model: type[BaseModel], described: "Descriptor") -> list[tuple[str, bool, Convert]]:
    """(Name, whether presence is asked for, conversion) of the writer's fields that `model` declares."""
    written = described.fields_by_name
    return [
        (one.name, written[one.name].has_presence, _converter(one, written[one.name]))
        for one in declared_fields(model)
        if one.name in written
    ]


def _read(message: Any, converters: Sequence[tuple[str, bool, Convert]]) -> dict[str, Any]:
    read = {
        name: convert(getattr(message, name))
        for name, presence, convert in converters
        if not presence or message.HasField(name)
    }
    return {name: value for name, value in read.items() if value is not None}


def _converter(field: DeclaredField, written: "FieldDescriptor") -> Convert:
    plain_list = field.shape.kind in ("list", "map") and not field.nullable
    if not field.required and not written.has_presence and not plain_list:
        # Without presence a price that is not mentioned and a price of 0 are the same bytes.
        raise _misfit(field, "without presence: make it `optional`, or a list inside a message")
    if field.shape.kind == "vector":
        return _vector(field, written)
    if field.shape.kind == "map" and field.shape.item is not None:
        return _map(field, written, field.shape.item)
    if field.shape.kind == "list" and field.shape.item is not None:
        return _list(field, written, field.shape.item)
    return _single(field, written, field.shape)


def _single(field: DeclaredField, written: "FieldDescriptor", shape: Shape) -> Convert:
    if written.is_repeated:
        raise _misfit(field, "as a list")
    return _item(field, written, shape)


def _item(field: DeclaredField, written: "FieldDescriptor", shape: Shape) -> Convert:
    if shape.model is not None and written.type == _MESSAGE:
        converters = _converters(shape.model, written.message_type)
        return lambda message: _read(message, converters)
    if written.type in _WIRE_KINDS.get(shape.kind, ()):
        return _same
    if written.type == _MESSAGE and written.message_type.full_name.startswith("google.protobuf."):
        inner = written.message_type.fields_by_name.get("value")
        if inner is not None and not inner.is_repeated and inner.type in _WIRE_KINDS.get(shape.kind, ()):
            return lambda message: message.value
    raise _misfit(field, f"with Protobuf type {written.type}, which holds no {shape.kind}")


def _same(value: Any) -> Any:
    return value


def _list(field: DeclaredField, written: "FieldDescriptor", item: Shape) -> Convert:
    if written.is_repeated:
        convert = _item(field, written, item)
        return lambda values: [convert(value) for value in values]
    inner = written.message_type.fields_by_name.get(LIST_VALUES) if written.type == _MESSAGE else None
    if inner is None or not inner.is_repeated:
        raise _misfit(field, f"neither as a list nor as a message with `repeated … {LIST_VALUES}`")
    convert_inner = _item(field, inner, item)
    return lambda message: [convert_inner(value) for value in getattr(message, LIST_VALUES)]


def _map(field: DeclaredField, written: "FieldDescriptor", item: Shape) -> Convert:
    entry = written.message_type.fields_by_name if written.type == _MESSAGE else {}
    is_map = written.type == _MESSAGE and written.message_type.GetOptions().map_entry
    if not is_map or entry["key"].type != _TEXT or item.model is not None:
        raise _misfit(field, "not as a map from string")
    _item(field, entry["value"], item)
    return dict


def _vector(field: DeclaredField, written: "FieldDescriptor") -> Convert:
    if written.is_repeated and written.type in _FLOATS:
        return list
    if not written.is_repeated and written.type == _TEXT:
        return _same
    if not written.is_repeated and written.type == _BYTES:
        return _base64
    inner = written.message_type.fields_by_name if written.type == _MESSAGE else {}
    kinds = {name: (one.type, one.is_repeated) for name, one in inner.items()}
    if kinds.get(VECTOR_FP16) != (_BYTES, False) or kinds.get(VECTOR_NUMBERS) != (2, True):
        raise _misfit(field, f"not as bytes, string or a message of `{VECTOR_FP16}` and `{VECTOR_NUMBERS}`")
    return lambda vector: _base64(vector.fp16) if vector.fp16 else list(vector.numbers)


def _base64(fp16: bytes) -> str:
    return base64.b64encode(fp16).decode("ascii")


def _misfit(field: DeclaredField, how: str) -> InvalidMessage:
    return InvalidMessage(DeadLetterReason.SCHEMA_INVALID, f"{field.name} is written {how}")


def _message_indexes(framed: bytes) -> tuple[tuple[int, ...], int]:
    """Which message of the file it is, as a path, and where it begins. A lone 0 stands for the first."""
    count, at = _zigzag(framed, 0)
    if count == 0:
        return (0,), at
    if not 0 < count <= MAX_MESSAGE_INDEXES:
        raise InvalidMessage(DeadLetterReason.DECODE_ERROR, f"{count} Protobuf message indexes")
    indexes = []
    for _ in range(count):
        index, at = _zigzag(framed, at)
        indexes.append(index)
    return tuple(indexes), at


def _zigzag(framed: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint of at most 32 bits, and where it ends."""
    value = 0
    for place, byte in enumerate(framed[at : at + 5]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at + place + 1
    raise InvalidMessage(DeadLetterReason.DECODE_ERROR, "the Protobuf message indexes have no end")


def _message_at(top: Sequence["Descriptor"], indexes: Sequence[int]) -> "Descriptor":
    among, found = top, None
    for index in indexes:
        if not 0 <= index < len(among):
            raise InvalidMessage(
                DeadLetterReason.DECODE_ERROR, f"the Protobuf schema has no message at {list(indexes)}"
            )
        found = among[index]
        among = found.nested_types
    if found is None:
        raise InvalidMessage(DeadLetterReason.DECODE_ERROR, "no Protobuf message index")
    return found


def _pool(
    model: type[BaseModel], text: str, references: Sequence[tuple[str, str]]
) -> tuple["DescriptorPool", str]:
    """A pool of its own for one writer's schema, and the name of its file."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto  # noqa: PLC0415
    from google.protobuf.descriptor_pool import DescriptorPool  # noqa: PLC0415

    pool = DescriptorPool()
    try:
        file = FileDescriptorProto.FromString(_descriptor(model, text))
        file.name = file.name or "writer.proto"
        others = []
        for name, one in references:
            other = FileDescriptorProto.FromString(base64.b64decode(one, validate=True))
            other.name = name  # the registry's name is the one that is imported
            others.append(other)
        _add_well_known(pool, {path for one in (file, *others) for path in one.dependency})
        for one in (*others, file):
            pool.Add(one)
        pool.FindFileByName(file.name)
    except Exception as error:  # the pool raises TypeError, KeyError, DecodeError and more
        raise InvalidMessage(
            DeadLetterReason.UNKNOWN_VERSION,
            f"no readable Protobuf schema: {type(error).__name__}: {str(error)[:200]}",
        ) from error
    return pool, file.name


def _descriptor(model: type[BaseModel], text: str) -> bytes:
    if _bare(text) == _bare(proto_text(model)):
        return file_descriptor(model)
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("a .proto other than ours, and the registry does not serialise it") from error


def _bare(proto: str) -> str:
    """A .proto without comments and white space."""
    return re.sub(r"\s+", "", re.sub(r"//[^\n]*|/\*.*?\*/", "", proto, flags=re.DOTALL))


def _add_well_known(pool: "DescriptorPool", paths: set[str]) -> None:
    for name in _WELL_KNOWN:
        if f"google/protobuf/{name}.proto" in paths:
            module = importlib.import_module(f"google.protobuf.{name}_pb2")
            pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
