"""A store's hot records in memory: reads of Pins seen lately do not go to RocksDB.

Write-through: every write is in the store below before it is in here, so the cache can be dropped at
any moment. Right only while this process is the store's one writer, which RocksDB enforces.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from features.store import Ids, Records, RecordStore

CAPACITY_PINS = 1 << 18
"""About 100 MB of Pin records."""


class CachedStore:
    """`RecordStore` over another one. When full it forgets everything, which costs nothing but reads."""

    def __init__(self, store: RecordStore, capacity: int = CAPACITY_PINS) -> None:
        self.dtype = store.dtype
        self._store = store
        self._capacity = capacity
        self._slots: dict[int, int] = {}
        self._records: Records = np.zeros(capacity, self.dtype)
        # Rows as bytes: numpy gathers and scatters those several times faster than structured ones.
        self._bytes = self._records.view(np.uint8).reshape(capacity, self.dtype.itemsize)
        self._tails: list[bytes] = [b""] * capacity

    def get_many(self, ids: Ids) -> tuple[Records, npt.NDArray[np.bool_], list[bytes]]:
        """See `RecordStore`."""
        if len(ids) > self._capacity:
            return self._store.get_many(ids)
        known = [self._slots.get(one, -1) for one in ids.tolist()]
        slots = np.array(known, np.intp)
        missing = np.flatnonzero(slots < 0)
        found = np.ones(len(ids), np.bool_)
        records = self._gather(slots)
        tails = [self._tails[slot] for slot in known]
        if len(missing):
            fresh, there, fresh_tails = self._store.get_many(ids[missing])
            records[missing], found[missing] = fresh, there
            for place, tail in zip(missing.tolist(), fresh_tails, strict=True):
                tails[place] = tail
            self._keep(ids[missing[there]], fresh[there], [fresh_tails[i] for i in np.flatnonzero(there)])
        return records, found, tails

    def put_many(
        self, ids: Ids, records: Records, tails: Sequence[bytes], meta: Mapping[str, bytes] | None = None
    ) -> None:
        """See `RecordStore`."""
        self._store.put_many(ids, records, tails, meta)
        if len(ids) <= self._capacity:
            self._keep(ids, records, tails)
        else:
            self._slots.clear()

    def get_meta(self, name: str) -> bytes | None:
        """See `RecordStore`."""
        return self._store.get_meta(name)

    def scan(self, chunk: int = 8192, *, after: int = -1) -> Iterator[tuple[Records, list[bytes]]]:
        """See `RecordStore`."""
        return self._store.scan(chunk, after=after)

    def close(self) -> None:
        """See `RecordStore`."""
        self._store.close()

    def _gather(self, slots: npt.NDArray[np.intp]) -> Records:
        """Copies of the rows; a slot of -1 gives any row (the caller overwrites it)."""
        rows: Records = self._bytes.take(slots, axis=0, mode="wrap").view(self.dtype).reshape(-1)
        return rows

    def _keep(self, ids: Ids, records: Records, tails: Sequence[bytes]) -> None:
        if len(self._slots) + len(ids) > self._capacity:
            self._slots.clear()
        slots = np.fromiter((self._slot(one) for one in ids.tolist()), np.intp, len(ids))
        self._bytes[slots] = np.ascontiguousarray(records).view(np.uint8).reshape(-1, self.dtype.itemsize)
        for slot, tail in zip(slots.tolist(), tails, strict=True):
            self._tails[slot] = tail

    def _slot(self, one: int) -> int:
        return self._slots.setdefault(one, len(self._slots))
