"""Confluent's wire format on input: magic byte 0, schema id, payload → the JSON that our decoders read.

Producers may write Avro, Protobuf or JSON with a schema that a registry keeps. What comes in is read with
its writer's schema, field by field by name, and handed on as JSON; plain JSON passes by untouched.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from pydantic import BaseModel

from schemas.codec import MAX_EVENT_BYTES
from schemas.errors import DeadLetterReason, InvalidMessage

from .avro_values import avro_reader
from .protobuf_values import protobuf_reader

MAGIC = b"\x00"
_HEADER = struct.Struct(">bI")
CACHED_READERS = 1000

ToJson = Callable[[bytes], bytes]
"""Payload after the schema id → JSON. Raises InvalidMessage."""


@dataclass(frozen=True)
class WriterSchema:
    """A schema as the registry has it. `references` (name, text) come before what refers to them.

    Protobuf text is the base64 of a FileDescriptorProto, or the .proto itself.
    """

    kind: str
    text: str
    references: tuple[tuple[str, str], ...] = ()


class SchemaSource(Protocol):
    """Where writers' schemas are looked up."""

    def schema(self, schema_id: int) -> WriterSchema:
        """The schema of this id.

        Raises InvalidMessage (unknown_version) when there is none, RetryableError when the registry does
        not answer, Refused when it does not let us in.
        """
        ...


@dataclass(frozen=True)
class Unframed:
    """A batch in which something was framed: every row as JSON, but for the `refused` ones (row → why)."""

    values: list[bytes | None]
    refused: dict[int, InvalidMessage]


class WireFormats:
    """Reads framed messages. A schema never changes under its id, so each is fetched and prepared once."""

    def __init__(self, registry: SchemaSource) -> None:
        self._registry = registry
        self._readers: OrderedDict[tuple[int, type[BaseModel]], ToJson | InvalidMessage] = OrderedDict()

    def to_json(self, model: type[BaseModel], value: bytes) -> bytes:
        """One message as JSON; a message that is not framed is given back as it is.

        Raises InvalidMessage for what can never be read, RetryableError while the registry is away.
        """
        if value[:1] != MAGIC:
            return value
        if len(value) > MAX_EVENT_BYTES:
            raise InvalidMessage(DeadLetterReason.TOO_LARGE, f"{len(value)} bytes, at most {MAX_EVENT_BYTES}")
        if len(value) < _HEADER.size:
            raise InvalidMessage(DeadLetterReason.DECODE_ERROR, f"framed, but only {len(value)} bytes long")
        _, schema_id = _HEADER.unpack_from(value)
        return self._reader(schema_id, model)(value[_HEADER.size :])

    def normalise(self, model: type[BaseModel], values: Sequence[bytes | None]) -> Unframed | None:
        """A batch as JSON; None when nothing in it is framed, which costs one pass of comparisons.

        Raises RetryableError while the registry is away: the batch is to be tried again as a whole.
        """
        if not _any_framed(values):
            return None
        read: list[bytes | None] = list(values)
        refused: dict[int, InvalidMessage] = {}
        for row, value in enumerate(values):
            if value is not None and value[:1] == MAGIC:
                try:
                    read[row] = self.to_json(model, value)
                except InvalidMessage as invalid:
                    refused[row] = invalid
        return Unframed(read, refused)

    def _reader(self, schema_id: int, model: type[BaseModel]) -> ToJson:
        wanted = (schema_id, model)
        reader = self._readers.get(wanted)
        if reader is None:
            reader = _prepare(model, self._registry.schema(schema_id), schema_id)
            self._readers[wanted] = reader
            if len(self._readers) > CACHED_READERS:
                self._readers.popitem(last=False)
        if isinstance(reader, InvalidMessage):
            raise InvalidMessage(reader.reason, reader.detail)
        return reader


def _any_framed(values: Sequence[bytes | None]) -> bool:
    # The magic byte sorts before every other, so the least message tells about all of them, in C; but
    # for an empty one, which sorts before it, and a tombstone, which does not sort.
    try:
        least = min(cast(Sequence[bytes], values), default=b"{")
    except TypeError:
        least = b""
    if least:
        return least[:1] == MAGIC
    return any(value is not None and value[:1] == MAGIC for value in values)


def _prepare(model: type[BaseModel], schema: WriterSchema, schema_id: int) -> ToJson | InvalidMessage:
    """A reader, or why messages of this schema can never be read."""
    try:
        if schema.kind == "AVRO":
            return avro_reader(model, schema.text, schema.references)
        if schema.kind == "PROTOBUF":
            return protobuf_reader(model, schema.text, schema.references)
        if schema.kind == "JSON":
            return bytes
    except InvalidMessage as invalid:
        return InvalidMessage(invalid.reason, f"schema {schema_id}: {invalid.detail}")
    return InvalidMessage(
        DeadLetterReason.UNKNOWN_VERSION, f"schema {schema_id} is {schema.kind[:40]}, which is not read here"
    )
