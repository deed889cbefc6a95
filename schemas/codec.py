"""Bytes ↔ schema, one message at a time: the only such (de)serialiser; `batch.py` has the batch one."""

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from .errors import DeadLetterReason, InvalidMessage

MAX_EVENT_BYTES = 256 * 1024

ModelT = TypeVar("ModelT", bound=BaseModel)


def encode(message: BaseModel) -> bytes:
    """JSON without the fields that are unset: a partial update stays partial."""
    return message.model_dump_json(exclude_none=True).encode("utf-8")


def decode(model: type[ModelT], value: bytes | None) -> ModelT:
    """Parse and validate one message.

    Raises InvalidMessage (with a reason of the closed list) for anything that is not a valid `model`.
    """
    if value is None:
        raise InvalidMessage(DeadLetterReason.DECODE_ERROR, "the message has no value (a tombstone?)")
    if len(value) > MAX_EVENT_BYTES:
        raise InvalidMessage(DeadLetterReason.TOO_LARGE, f"{len(value)} bytes, at most {MAX_EVENT_BYTES}")
    try:
        return model.model_validate_json(value)
    except ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: ValidationError) -> InvalidMessage:
    """The first few complaints, each with its place; `json_invalid` means that it was no JSON at all."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    syntax = any(detail["type"] == "json_invalid" for detail in details)
    reason = DeadLetterReason.DECODE_ERROR if syntax else DeadLetterReason.SCHEMA_INVALID
    said = "; ".join(f"{'.'.join(map(str, d['loc'])) or 'value'}: {d['msg']}" for d in details[:3])
    more = f" (+{len(details) - 3} more)" if len(details) > 3 else ""
    return InvalidMessage(reason, said + more)


def json_schema(model: type[BaseModel]) -> str:
    """The published JSON Schema of `model`, stable from run to run."""
    return json.dumps(model.model_json_schema(), indent=2, sort_keys=True)
