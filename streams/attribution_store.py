"""What attribution keeps: open impressions, recent conversions, and when each of them is over.

Keys are big-endian, so that RocksDB's order is the order in time:

- `i` pin user served_at request_id → the impression's message;
- `r` pin user length request_id served_at → nothing: where the repeats of a request are;
- `c` pin user occurred_at kind value → nothing: an equal conversion is the same conversion;
- `d` partition due_at, then one of the two keys above → nothing: the queue of what ends when;
- `t`, `w`: event time seen by topic and partition, and watermark by partition number.
"""

import struct
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from .attribution_windows import AttributionWindows, Conversion, ServedAt
from .positions import Partition
from .step_store import Changes, StepStore

NOBODY = 2**64 - 1
"""Stands for the user of an impression whose user is not known; no user has this id."""

_GROUP = struct.Struct(">QQ")
_TIME = struct.Struct(">Q")
_CONVERSION = struct.Struct(">QBQ")
_DUE = struct.Struct(">IQ")
_LENGTH = struct.Struct(">I")
_VALUES = 2**63
_IMPRESSION, _REQUEST, _CONVERTED, _QUEUE, _NEWEST, _WATERMARK = b"i", b"r", b"c", b"d", b"t", b"w"


class Group(NamedTuple):
    """The user and the Pin that impressions and conversions meet in."""

    pin_id: int
    user_id: int


class Due(NamedTuple):
    """One entry of the queue."""

    key: bytes
    entry: bytes
    due_ms: int

    @property
    def is_impression(self) -> bool:
        """Whether an impression ends, and not a conversion."""
        return self.entry.startswith(_IMPRESSION)


def impression_key(group: Group, served: ServedAt) -> bytes:
    """Key of an open impression."""
    return _IMPRESSION + _GROUP.pack(*group) + _TIME.pack(served.served_at_ms) + served.request_id


def request_key(group: Group, served: ServedAt) -> bytes:
    """Key under which an open impression is found by its request."""
    return _of_request(group, served.request_id) + _TIME.pack(served.served_at_ms)


def _of_request(group: Group, request_id: bytes) -> bytes:
    # With its length, so that no request's entries stand among those of another one.
    return _REQUEST + _GROUP.pack(*group) + _LENGTH.pack(len(request_id)) + request_id


def conversion_key(group: Group, conversion: Conversion) -> bytes:
    """Key of a recent conversion."""
    at_ms, kind, minus_value = conversion
    return _CONVERTED + _GROUP.pack(*group) + _CONVERSION.pack(at_ms, kind, minus_value + _VALUES)


def due_key(number: int, due_ms: int, entry: bytes) -> bytes:
    """Key of an entry's place in the queue of a partition number."""
    return _QUEUE + _DUE.pack(number, due_ms) + entry


def group_of(entry: bytes) -> Group:
    """User and Pin of an impression's or a conversion's key."""
    return Group(*_GROUP.unpack_from(entry, 1))


def served_of(entry: bytes) -> ServedAt:
    """Time and request of an impression's key."""
    start = 1 + _GROUP.size
    return ServedAt(_TIME.unpack_from(entry, start)[0], entry[start + _TIME.size :])


class AttributionStore(StepStore):
    """The state of `AttributionStep`. Raises Refused when it was made with other windows."""

    def __init__(self, path: Path, windows: AttributionWindows) -> None:
        super().__init__(path, f"attribution/2 {windows.text()}")
        self._swept: dict[int, bytes] = {}

    def impressions(self, group: Group, first: ServedAt) -> Iterator[ServedAt]:
        """Open impressions of a user and a Pin from this one on, ascending."""
        found = self.scan(_IMPRESSION + _GROUP.pack(*group), impression_key(group, first))
        return (served_of(key) for key, _ in found)

    def repeats(self, group: Group, first: ServedAt, until_ms: int) -> list[ServedAt]:
        """Open impressions of the same request after this one, up to and including a moment."""
        found = self.scan(_of_request(group, first.request_id), request_key(group, first))
        times = (_TIME.unpack(key[-_TIME.size :])[0] for key, _ in found)
        later = takewhile(lambda at_ms: at_ms <= until_ms, times)
        return [ServedAt(at_ms, first.request_id) for at_ms in later if at_ms > first.served_at_ms]

    def conversions(self, group: Group, from_ms: int, before_ms: int) -> Iterator[Conversion]:
        """Conversions of a user and a Pin from one moment up to, not including, another; ascending."""
        prefix = _CONVERTED + _GROUP.pack(*group)
        found = (_conversion(key) for key, _ in self.scan(prefix, prefix + _TIME.pack(from_ms)))
        return takewhile(lambda one: one.occurred_at_ms < before_ms, found)

    def due(self, number: int, before_ms: int) -> Iterator[Due]:
        """What is over before a moment, ascending by when it ended.

        Goes on from where `swept` says: RocksDB would step over every removed entry again.
        """
        prefix = _QUEUE + number.to_bytes(4, "big")
        for key, _ in self.scan(prefix, self._swept.get(number)):
            due_ms = _DUE.unpack_from(key, 1)[1]
            if due_ms >= before_ms:
                return
            yield Due(key, key[1 + _DUE.size :], due_ms)

    def swept(self, number: int, key: bytes) -> None:
        """Everything in the queue before this key is gone."""
        self._swept[number] = key

    def newest(self) -> dict[Partition, int]:
        """Event time seen, by topic and partition."""
        found = {}
        for key, value in self.scan(_NEWEST):
            topic, _, number = key[1:].decode().rpartition("/")
            found[topic, int(number)] = int(value)
        return found

    def watermarks(self) -> dict[int, int]:
        """Watermarks by partition number."""
        return {int(key[1:]): int(value) for key, value in self.scan(_WATERMARK)}


def put_newest(changes: Changes, partition: Partition, time_ms: int) -> None:
    """Keep the event time of a topic's partition."""
    changes.puts[_NEWEST + f"{partition[0]}/{partition[1]}".encode()] = b"%d" % time_ms


def put_watermark(changes: Changes, number: int, time_ms: int) -> None:
    """Keep the watermark of a partition number."""
    changes.puts[_WATERMARK + b"%d" % number] = b"%d" % time_ms


def _conversion(key: bytes) -> Conversion:
    at_ms, kind, packed_value = _CONVERSION.unpack_from(key, 1 + _GROUP.size)
    return Conversion(at_ms, kind, packed_value - _VALUES)
