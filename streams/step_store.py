"""A step's own state: bytes by key in RocksDB, its positions, and what it has to send, written together.

A row that a step sends because time has passed has no message that would be delivered again. So it goes
into an outbox in the write that removes what it came from; it leaves the outbox with the next call's
write, because the next call comes when the broker has everything before it. What a crash leaves in the
outbox is sent first thing by the next process: the same bytes, never a second result. A rebalance is
like a crash to it: a row whose partition went to another worker may have been held back, so it waits in
the outbox until the partition is this worker's again.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rocksdict import Options, WriteBatch

from features.store import open_rocks
from schemas.errors import Refused

from .positions import Partition
from .steps import Output

_META, _OUTBOX, _POSITION = b"m", b"o", b"p"
_LENGTHS = struct.Struct(">HIii")
_NONE = -1


@dataclass
class Changes:
    """What one write changes. Keys are the step's own and start with none of `m`, `o`, `p`."""

    puts: dict[bytes, bytes] = field(default_factory=dict)
    deletes: set[bytes] = field(default_factory=set)
    positions: dict[Partition, int] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)


class StepStore:
    """State of one step. One process may open it. Raises Refused when its `layout` is another.

    `layout`: a text that changes whenever what is stored would have to be read otherwise.
    """

    def __init__(self, path: Path, layout: str) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(32 << 20)
        self._db = open_rocks(path, options)
        self._check_layout(path, layout.encode())
        self._positions = {_partition(key): int(value) for key, value in self.scan(_POSITION)}
        self._waiting = {key: _output(value) for key, value in self.scan(_OUTBOX)}
        self._handed_out: dict[bytes, Output] = {}
        self._sequence = 1 + max((int.from_bytes(key[1:], "big") for key in self._waiting), default=-1)
        self._owned: frozenset[int] | None = None

    def _check_layout(self, path: Path, layout: bytes) -> None:
        stored = self.get(_META + b"layout")
        if stored is None:
            self._db[_META + b"layout"] = layout
        elif stored != layout:
            self.close()
            raise Refused(
                "step_layout",
                expected=f"state of layout {layout.decode()}",
                came=f"{stored.decode()} in {path}",
                fix="Delete the directory: the state is rebuilt from the topics, as far back as they reach.",
            )

    def position(self, partition: Partition) -> int:
        """Next offset to fold in; 0 for a partition never seen."""
        return self._positions.get(partition, 0)

    def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Next offset of each of these that has been seen."""
        return {one: self._positions[one] for one in partitions if one in self._positions}

    def seen(self) -> list[Partition]:
        """Every partition that has a position."""
        return list(self._positions)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        # Raw mode takes and gives bytes; the wheel's stubs describe the pickling mode.
        value: bytes | None = cast(Any, self._db.get(key))
        return value

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Entries whose keys begin with `prefix`, ascending, from key `start` on."""
        entries: Iterator[tuple[bytes, bytes]] = cast(
            Any, self._db.items(from_key=cast(Any, start or prefix))
        )
        for key, value in entries:
            if not key.startswith(prefix):
                return
            yield key, value

    def estimated_keys(self) -> int:
        """How many keys there are, as RocksDB estimates."""
        return int(self._db.property_int_value("rocksdb.estimate-num-keys") or 0)

    def compact(self) -> None:
        """Give back the room of what was removed, now; RocksDB does so by itself in its own time."""
        self._db.flush()
        self._db.compact_range(None, None)

    def write(self, changes: Changes) -> None:
        """Write without touching the outbox; durable against the end of the process on return."""
        self._db.write(self._batch(changes))
        self._positions.update(changes.positions)

    def own(self, partitions: frozenset[int]) -> None:
        """Give out rows of these partition numbers only. What was given out last may not have been sent."""
        self._waiting, self._handed_out = self._waiting | self._handed_out, {}
        self._owned = partitions

    def finish(self, changes: Changes) -> list[Output]:
        """The one write that ends a call of the step; returns what is to be sent.

        That is `changes.outputs`, behind what may not have been sent before.
        """
        batch = self._batch(changes)
        for key in self._handed_out:
            batch.delete(key)
        ready = {key: one for key, one in self._waiting.items() if self._may_send(one)}
        first, self._sequence = self._sequence, self._sequence + len(changes.outputs)
        fresh = {
            _OUTBOX + number.to_bytes(8, "big"): one
            for number, one in enumerate(changes.outputs, start=first)
        }
        for key, one in fresh.items():
            batch.put(key, _packed(one))
        if not batch.is_empty():
            self._db.write(batch)
        self._positions.update(changes.positions)
        self._waiting = {key: one for key, one in self._waiting.items() if key not in ready}
        self._handed_out = ready | fresh
        return list(self._handed_out.values())

    def _may_send(self, output: Output) -> bool:
        return self._owned is None or output.owner is None or output.owner in self._owned

    def _batch(self, changes: Changes) -> WriteBatch:
        batch = WriteBatch(raw_mode=True)
        for key in changes.deletes:
            batch.delete(key)
        for key, value in changes.puts.items():
            batch.put(key, value)
        for partition, offset in changes.positions.items():
            batch.put(_position_key(partition), b"%d" % offset)
        return batch

    def close(self) -> None:
        """Release the store; it can be opened again."""
        self._db.close()


def advance(store: StepStore, offsets: Mapping[Partition, Sequence[int]]) -> dict[Partition, int]:
    """Positions after these offsets; never behind what the store has."""
    return {one: max(store.position(one), max(numbers) + 1) for one, numbers in offsets.items() if numbers}


def _position_key(partition: Partition) -> bytes:
    return _POSITION + f"{partition[0]}/{partition[1]}".encode()


def _partition(key: bytes) -> Partition:
    topic, _, number = key[1:].decode().rpartition("/")
    return topic, int(number)


def _packed(output: Output) -> bytes:
    topic = output.topic.encode()
    numbers = [_NONE if one is None else one for one in (output.partition, output.owner)]
    return _LENGTHS.pack(len(topic), len(output.key), *numbers) + topic + output.key + output.value


def _output(packed: bytes) -> Output:
    topic_length, key_length, partition, owner = _LENGTHS.unpack_from(packed)
    topic_end = _LENGTHS.size + topic_length
    key_end = topic_end + key_length
    return Output(
        topic=packed[_LENGTHS.size : topic_end].decode(),
        key=packed[topic_end:key_end],
        value=packed[key_end:],
        partition=None if partition == _NONE else partition,
        owner=None if owner == _NONE else owner,
    )
