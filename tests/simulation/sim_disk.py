"""A worker's disk: it survives the worker, loses what was not synced with the power, gets lost, gets full."""

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from features.pin_state import PIN_RECORD
from features.store import Ids, MemoryStore, Records

from .scheduler import Process


@dataclass
class _Write:
    ids: Ids
    records: Records
    tails: list[bytes]
    meta: dict[str, bytes]


@dataclass
class SimDisk:
    """What is durable: a journal of writes, each whole or not there, and the image that they make."""

    image: MemoryStore = field(default_factory=lambda: MemoryStore(PIN_RECORD))
    journal: list[_Write] = field(default_factory=list)
    full: bool = False

    def write(self, write: _Write) -> None:
        """One atomic write."""
        self.journal.append(write)
        self.image.put_many(write.ids, write.records, write.tails, write.meta)

    def lose(self) -> None:
        """The disk is gone; a new one is empty."""
        self.image, self.journal = MemoryStore(PIN_RECORD), []

    def lose_power(self, writes: int) -> None:
        """The last writes were not synced: they are gone, without holes."""
        kept = self.journal[: max(0, len(self.journal) - writes)]
        self.lose()
        for write in kept:
            self.write(write)


class SimStore:
    """`RecordStore` of one process on its disk."""

    def __init__(self, disk: SimDisk, process: Process) -> None:
        self.dtype = PIN_RECORD
        self._disk, self._process = disk, process

    def get_many(self, ids: Ids) -> tuple[Records, npt.NDArray[np.bool_], list[bytes]]:
        """See `RecordStore`."""
        self._process.check_alive()
        return self._disk.image.get_many(ids)

    def put_many(
        self, ids: Ids, records: Records, tails: Sequence[bytes], meta: Mapping[str, bytes] | None = None
    ) -> None:
        """See `RecordStore`. Raises OSError when the disk is full."""
        told = sorted((meta or {}).items())
        self._process.call(f"put_many {ids.tolist()} {told}")
        if self._disk.full:
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        self._disk.write(_Write(ids.copy(), records.copy(), list(tails), dict(meta or {})))
        self._process.call("stored")

    def get_meta(self, name: str) -> bytes | None:
        """See `RecordStore`."""
        self._process.check_alive()
        return self._disk.image.get_meta(name)

    def scan(self, chunk: int = 8192, *, after: int = -1) -> Iterator[tuple[Records, list[bytes]]]:
        """See `RecordStore`."""
        self._process.check_alive()
        yield from self._disk.image.scan(chunk, after=after)

    def close(self) -> None:
        """Nothing to release."""
