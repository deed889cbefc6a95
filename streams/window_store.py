"""Where the day windows keep their state: RocksDB in raw mode, every change in one write-batch.

Five kinds of keys, each with its partition in front of the rest, so that one partition's part of the
state lies together:

    c partition pin               counts of one Pin (features.day_buckets)
    d partition day pin           this Pin has counts on this day: what a change of day has to look at
    r partition pin               this Pin has to be told, whether or not its windows change
    u topic partition day digest  an event with this CloudEvents source and id was counted
    m name                        positions, days, sweeps under way
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, cast

from rocksdict import BlockBasedOptions, DBCompressionType, Options, WriteBatch

from features.store import open_rocks
from schemas.errors import Refused

from .positions import Partition

PinKey = tuple[int, int]
"""(partition, Pin id)."""

LAYOUT = b"day-windows-1"

_PIN, _DAY, _ID = struct.Struct(">cHQ"), struct.Struct(">cHHQ"), struct.Struct(">cBHH")
_META = b"m"
_POSITION = "position/"


def id_key(topic: int, partition: int, day: int, digest: bytes) -> bytes:
    """Key that says: this event was counted. `digest` names it, `day` is the one on which it came in."""
    return _ID.pack(b"u", topic, partition, day) + digest


@dataclass
class WindowWrites:
    """Changes that become durable together. Empty counts delete the Pin; a None in `meta` deletes it.

    `to_tell` are Pins that have to be told, `told` those that were.
    """

    counts: dict[PinKey, bytes] = field(default_factory=dict)
    days: set[tuple[int, int, int]] = field(default_factory=set)
    ids: Sequence[bytes] = ()
    positions: dict[Partition, int] = field(default_factory=dict)
    meta: dict[str, bytes | None] = field(default_factory=dict)
    ranges: list[tuple[bytes, bytes]] = field(default_factory=list)
    to_tell: set[PinKey] = field(default_factory=set)
    told: Sequence[PinKey] = ()

    def forget_days(self, partition: int, before: int) -> None:
        """Drop the index of this partition's days before this one."""
        end = _DAY.pack(b"d", partition, max(before, 0), 0)
        self.ranges.append((_DAY.pack(b"d", partition, 0, 0), end))

    def forget_ids(self, topic: int, partition: int, before: int) -> None:
        """Drop the event ids that came in before this day."""
        self.ranges.append((_ID.pack(b"u", topic, partition, 0), _ID.pack(b"u", topic, partition, before)))


class WindowStore:
    """Counts, index, ids and positions of the partitions that this worker has had."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises Refused for a directory that something else has written."""
        self._db = open_rocks(path, _options())
        layout = self.meta("layout")
        if layout not in (None, LAYOUT):
            self._db.close()
            raise Refused(
                "record_layout",
                expected=f"day windows of layout {LAYOUT.decode()}",
                came=f"{(layout or b'').decode(errors='replace')} in {path}",
                fix="Delete the directory: it is rebuilt from the topics.",
            )
        if layout is None:
            self._db[_META + b"layout"] = LAYOUT
        self.positions: dict[Partition, int] = {
            (topic, int(number)): int(value)
            for name, value in self.metas(_POSITION)
            for topic, _, number in [name.removeprefix(_POSITION).rpartition("/")]
        }

    def counts(self, pins: Sequence[PinKey]) -> list[bytes | None]:
        """Stored counts of these Pins."""
        keys: Any = [_PIN.pack(b"c", *pin) for pin in pins]
        return cast("list[bytes | None]", self._db.get(keys)) if pins else []

    def known(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of these ids were counted."""
        found: Any = self._db.get(cast(Any, list(keys))) if keys else []
        return [value is not None for value in found]

    def pins_of_day(self, partition: int, day: int, after: int, limit: int) -> list[int]:
        """Pins above `after` (-1: from the first) with counts on this day, ascending, at most `limit`."""
        prefix = _DAY.pack(b"d", partition, day, 0)[:5]
        pins: list[int] = []
        for key in self._keys(_DAY.pack(b"d", partition, day, after + 1)):
            if not key.startswith(prefix) or len(pins) == limit:
                break
            pins.append(_DAY.unpack(key)[3])
        return pins

    def first_day(self, partition: int) -> int | None:
        """The first day on which a Pin of this partition has counts."""
        first = _DAY.pack(b"d", partition, 0, 0)
        key = next(self._keys(first), b"")
        return _DAY.unpack(key)[2] if key.startswith(first[:3]) else None

    def pins_to_tell(self, partition: int, limit: int) -> list[int]:
        """Pins of this partition that have to be told, ascending, at most `limit`."""
        first = _PIN.pack(b"r", partition, 0)
        mine = takewhile(lambda key: key.startswith(first[:3]), self._keys(first))
        return [_PIN.unpack(key)[2] for key in islice(mine, limit)]

    def _keys(self, first: bytes) -> Iterator[bytes]:
        return cast("Iterator[bytes]", self._db.keys(from_key=first))

    def meta(self, name: str) -> bytes | None:
        """One piece of metadata."""
        value: bytes | None = self._db.get(_META + name.encode())
        return value

    def metas(self, prefix: str) -> list[tuple[str, bytes]]:
        """Metadata whose names start so."""
        first, found = _META + prefix.encode(), []
        entries: Iterator[tuple[bytes, bytes]] = cast(Any, self._db.items(from_key=first))
        for key, value in entries:
            if not key.startswith(first):
                break
            found.append((key[1:].decode(), value))
        return found

    def write(self, writes: WindowWrites) -> None:
        """Everything or nothing."""
        batch = WriteBatch(raw_mode=True)
        for pin, value in writes.counts.items():
            _put(batch, _PIN.pack(b"c", *pin), value or None)
        for pin in writes.told:
            batch.delete(_PIN.pack(b"r", *pin))
        for pin in writes.to_tell:
            batch.put(_PIN.pack(b"r", *pin), b"")
        for partition, day, number in writes.days:
            batch.put(_DAY.pack(b"d", partition, day, number), b"")
        for key in writes.ids:
            batch.put(key, b"")
        named = {f"{_POSITION}{topic}/{number}": at for (topic, number), at in writes.positions.items()}
        meta: Mapping[str, bytes | None] = writes.meta | {name: b"%d" % at for name, at in named.items()}
        for name, data in meta.items():
            _put(batch, _META + name.encode(), data)
        for begin, end in writes.ranges:
            batch.delete_range(begin, end)
        self._db.write(batch)
        self.positions |= writes.positions

    def settle(self) -> None:
        """Write what is in memory to disk and compact, so that the directory's size says something."""
        self._db.flush()
        self._db.compact_range(None, None)

    def close(self) -> None:
        """Release the directory."""
        self._db.close()


def _put(batch: WriteBatch, key: bytes, value: bytes | None) -> None:
    if value is None:
        batch.delete(key)
    else:
        batch.put(key, value)


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.increase_parallelism(2)
    options.set_write_buffer_size(64 << 20)
    # Most ids looked for are not there: a filter of 10 bits answers that without reading a block.
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    return options
