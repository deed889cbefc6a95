"""Files of events, one JSON object per line: read in blocks, taken apart into topic, key and value."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import orjson

from schemas.errors import Refused

BLOCK_BYTES = 4 << 20
MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True)
class Block:
    """Whole lines without their ends; the first is line `first_line`. `bytes_read`: so far, of the file."""

    lines: list[bytes]
    first_line: int
    bytes_read: int


def read_blocks(file: BinaryIO, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """The lines of a file in blocks of about this size, counted from 1.

    Raises Refused for a line so long that the file cannot be JSON Lines.
    """
    rest, first_line, bytes_read = b"", 1, 0
    while chunk := file.read(block_bytes):
        bytes_read += len(chunk)
        whole, end, rest_now = chunk.rpartition(b"\n")
        if not end:
            rest += chunk
            if len(rest) > MAX_LINE_BYTES:
                raise Refused(
                    "long_line",
                    expected=f"JSON Lines, none longer than {MAX_LINE_BYTES} bytes",
                    came=f"more than that in line {first_line}",
                    fix="Write one event per line, without an array around them.",
                )
            continue
        lines, rest = _lines(rest + whole), rest_now
        yield Block(lines, first_line, bytes_read)
        first_line += len(lines)
    if rest:
        yield Block(_lines(rest), first_line, bytes_read)


def _lines(text: bytes) -> list[bytes]:
    return text.replace(b"\r\n", b"\n").split(b"\n")


@dataclass
class Events:
    """Events of one topic, by row. `keys` are None where the line names none."""

    line_numbers: list[int] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    has_key: list[bool] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    """What is the same for two lines of one event: source and id where the line has them, or all of it."""


@dataclass(frozen=True)
class _Row:
    value: bytes | None
    name: bytes
    key: bytes | None = None
    has_key: bool = False


@dataclass(frozen=True)
class Parted:
    """Lines by topic (empty: none is named), and those that are no JSON objects, with why."""

    events: dict[str, Events]
    undecodable: list[tuple[int, str]]


def part(lines: Sequence[bytes], first_line: int, topic: str | None) -> Parted:
    """Take lines apart. `topic`: of lines that name none.

    A line is an event, or `{"topic": …, "key": …, "value": {…}}` (and, if it likes, `id` and `source`, or
    `headers` with `ce_id` and `ce_source`). Empty lines are passed over.
    """
    events: dict[str, Events] = {}
    undecodable: list[tuple[int, str]] = []
    if topic is not None and not any(b'"value"' in line for line in lines):
        events[topic] = _plain(lines, first_line)
        return Parted(events, undecodable)
    for number, line in enumerate(lines, first_line):
        if not line.strip():
            continue
        try:
            fields = orjson.loads(line)
            its, row = topic or "", _Row(line, line)
            if _is_envelope(fields):
                its, row = _named_topic(fields) or its, _enveloped(line, fields)
        except orjson.JSONDecodeError as error:
            undecodable.append((number, f"no JSON: {error}"))
        except (TypeError, RecursionError):
            # orjson reads 1,024 levels and writes 254.
            undecodable.append((number, "no event: nested too deep"))
        else:
            _add(events.setdefault(its, Events()), number, row)
    return Parted(events, undecodable)


def _plain(lines: Sequence[bytes], first_line: int) -> Events:
    numbered = [(number, line) for number, line in enumerate(lines, first_line) if line.strip()]
    values: list[bytes | None] = [line for _, line in numbered]
    return Events(
        [number for number, _ in numbered],
        values,
        [None] * len(values),
        [False] * len(values),
        [line for _, line in numbered],
    )


def _is_envelope(fields: Any) -> bool:
    return isinstance(fields, dict) and "value" in fields and isinstance(fields["value"], dict | None)


def _named_topic(fields: dict[str, Any]) -> str:
    topic = fields.get("topic")
    return topic if isinstance(topic, str) else ""


def _enveloped(line: bytes, fields: dict[str, Any]) -> _Row:
    value, key = fields["value"], fields.get("key")
    headers = fields.get("headers")
    said = headers if isinstance(headers, dict) else {}
    event_id = fields.get("id", said.get("ce_id"))
    source = fields.get("source", said.get("ce_source"))
    return _Row(
        None if value is None else orjson.dumps(value),
        line if event_id is None else orjson.dumps([source, event_id]),
        None if key is None else str(key).encode("utf-8", "backslashreplace"),
        has_key="key" in fields,
    )


def _add(events: Events, number: int, row: _Row) -> None:
    events.line_numbers.append(number)
    events.values.append(row.value)
    events.keys.append(row.key)
    events.has_key.append(row.has_key)
    events.names.append(row.name)
