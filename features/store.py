"""The online store: fixed-width records by 64-bit id, with a tail of free length; and two of them.

`RocksStore` keeps records on disk through RocksDB in raw mode (bytes only, nothing is unpickled);
`MemoryStore` keeps them in a dict and serves tests and benchmarks. Both pass
`tests/contracts/test_record_store.py`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
from rocksdict import AccessType, Options, Rdict, WriteBatch

from schemas.errors import Refused

Records = npt.NDArray[np.void]
Ids = npt.NDArray[np.int64]

_RECORD_PREFIX = b"r"
_META_PREFIX = b"m"


def open_rocks(path: Path, options: Options, access: AccessType | None = None) -> Rdict:
    """Open the RocksDB in this directory. Raises Refused (`state_in_use`) while another process has it."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        return Rdict(str(path), options=options, access_type=access or AccessType.read_write())
    except Exception as error:  # rocksdict knows no other class
        if not any(words in str(error) for words in ("lock file", "lock hold")):
            raise
        raise Refused(
            "state_in_use",
            expected="state that no other process has open",
            came=f"{path} is locked",
            fix="End the process that has it, or give this one another --worker number or data directory.",
        ) from error


class RecordStore(Protocol):
    """What the enrichment worker and serving need of a store."""

    dtype: np.dtype[np.void]

    def get_many(self, ids: Ids) -> tuple[Records, npt.NDArray[np.bool_], list[bytes]]:
        """Records in the order of `ids` (zeros where there is none), which were found, and their tails."""
        ...

    def put_many(
        self, ids: Ids, records: Records, tails: Sequence[bytes], meta: Mapping[str, bytes] | None = None
    ) -> None:
        """Write records, tails and metadata in one atomic batch."""
        ...

    def get_meta(self, name: str) -> bytes | None:
        """A metadata value written with `put_many`."""
        ...

    def scan(self, chunk: int = 8192, *, after: int = -1) -> Iterator[tuple[Records, list[bytes]]]:
        """Records and tails of every id above `after`, ascending by id, in chunks."""
        ...

    def close(self) -> None:
        """Release the store; it can be opened again."""
        ...


def _split(dtype: np.dtype[np.void], values: Sequence[bytes]) -> tuple[Records, list[bytes]]:
    """Stored values -> records and tails, with one copy."""
    size = dtype.itemsize
    records = np.frombuffer(b"".join([value[:size] for value in values]), dtype).copy()
    return records, [value[size:] for value in values]


def _joined(records: Records, tails: Sequence[bytes]) -> list[bytes]:
    """Inverse of `_split`."""
    size, packed = records.dtype.itemsize, records.tobytes()
    return [packed[i * size : (i + 1) * size] + tail for i, tail in enumerate(tails)]


def _keys(ids: Ids) -> list[bytes]:
    """Big-endian, so that byte order is numeric order (ids are not negative)."""
    packed = ids.astype(">i8").tobytes()
    return [_RECORD_PREFIX + packed[i : i + 8] for i in range(0, len(packed), 8)]


def _first_key(after: int) -> bytes:
    """The smallest key of an id above `after` (at most 2**63 - 1, so that the next still fits)."""
    return _RECORD_PREFIX + (after + 1).to_bytes(8, "big")


class MemoryStore:
    """Records in a dict. Lost when the process ends."""

    def __init__(self, dtype: np.dtype[np.void]) -> None:
        self.dtype = dtype
        self._values: dict[bytes, bytes] = {}
        self._meta: dict[str, bytes] = {}

    def get_many(self, ids: Ids) -> tuple[Records, npt.NDArray[np.bool_], list[bytes]]:
        """See `RecordStore`."""
        return _gather(self.dtype, [self._values.get(key) for key in _keys(ids)])

    def put_many(
        self, ids: Ids, records: Records, tails: Sequence[bytes], meta: Mapping[str, bytes] | None = None
    ) -> None:
        """See `RecordStore`."""
        self._values.update(zip(_keys(ids), _joined(records, tails), strict=True))
        self._meta.update(meta or {})

    def get_meta(self, name: str) -> bytes | None:
        """See `RecordStore`."""
        return self._meta.get(name)

    def scan(self, chunk: int = 8192, *, after: int = -1) -> Iterator[tuple[Records, list[bytes]]]:
        """See `RecordStore`."""
        first = _first_key(after)
        keys = sorted(key for key in self._values if key >= first)
        for start in range(0, len(keys), chunk):
            yield _split(self.dtype, [self._values[key] for key in keys[start : start + chunk]])

    def close(self) -> None:
        """Nothing to release."""


def _gather(
    dtype: np.dtype[np.void], values: Sequence[bytes | None]
) -> tuple[Records, npt.NDArray[np.bool_], list[bytes]]:
    blank = bytes(dtype.itemsize)
    found = np.array([value is not None for value in values], np.bool_)
    records, tails = _split(dtype, [blank if value is None else value for value in values])
    return records, found, tails


class RocksStore:
    """Records in RocksDB. One process may open it for writing; any number read-only.

    Raises Refused when the directory holds records of another layout, or another process has it.
    """

    def __init__(self, path: Path, dtype: np.dtype[np.void], *, read_only: bool = False) -> None:
        self.dtype = dtype
        options = Options(raw_mode=True)
        options.create_if_missing(not read_only)
        options.increase_parallelism(2)
        options.set_write_buffer_size(64 << 20)
        # One writer: without the locks of a concurrent memtable a write takes a quarter less time.
        options.set_allow_concurrent_memtable_write(False)
        self._db = open_rocks(path, options, AccessType.read_only() if read_only else None)
        self._check_layout(path, read_only)

    def _check_layout(self, path: Path, read_only: bool) -> None:
        layout = hashlib.sha256(repr(self.dtype.descr).encode()).hexdigest().encode()
        stored = self.get_meta("layout")
        if stored is None and not read_only:
            self._db[_META_PREFIX + b"layout"] = layout
        elif stored != layout:
            self.close()
            raise Refused(
                "record_layout",
                expected=f"records of layout {layout[:12].decode()}",
                came=f"{(stored or b'none')[:12].decode()} in {path}",
                fix="The store was written by another version: delete it and let the worker rebuild it.",
            )

    def get_many(self, ids: Ids) -> tuple[Records, npt.NDArray[np.bool_], list[bytes]]:
        """See `RecordStore`."""
        # Raw mode takes and gives bytes; the wheel's stubs describe the pickling mode.
        keys: list[Any] = list(_keys(ids))
        values: Any = self._db.get(keys)
        return _gather(self.dtype, values)

    def put_many(
        self, ids: Ids, records: Records, tails: Sequence[bytes], meta: Mapping[str, bytes] | None = None
    ) -> None:
        """See `RecordStore`."""
        batch = WriteBatch(raw_mode=True)
        for key, value in zip(_keys(ids), _joined(records, tails), strict=True):
            batch.put(key, value)
        for name, value in (meta or {}).items():
            batch.put(_META_PREFIX + name.encode(), value)
        self._db.write(batch)

    def get_meta(self, name: str) -> bytes | None:
        """See `RecordStore`."""
        value: bytes | None = self._db.get(_META_PREFIX + name.encode())
        return value

    def scan(self, chunk: int = 8192, *, after: int = -1) -> Iterator[tuple[Records, list[bytes]]]:
        """See `RecordStore`."""
        values: list[bytes] = []
        entries: Iterator[tuple[bytes, bytes]] = cast(Any, self._db.items(from_key=_first_key(after)))
        for key, value in entries:
            if not key.startswith(_RECORD_PREFIX):
                break
            values.append(value)
            if len(values) == chunk:
                yield _split(self.dtype, values)
                values = []
        if values:
            yield _split(self.dtype, values)

    def close(self) -> None:
        """See `RecordStore`."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
