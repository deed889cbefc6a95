"""A disk that is full at one of the writes of a cut, a build and a publication, or from it on.

Every write of data is one: files that Python writes, and those that safetensors, Arrow and FAISS write, each
with the error that it gave on a disk that was full. Half of what was to be written is on the disk then.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import faiss
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import save_file

import index.row_files
from index.contents import read_release
from index.snapshots import list_snapshots, read_snapshot
from schemas.errors import Refused

from .commit_crashes import FaultResult, after_fault
from .commit_world import CommitWorld

_SAYS = os.strerror(errno.ENOSPC)


def fill_at_each_write(data: Path) -> FaultResult:
    """Cut, build and publish over a live release with the disk full at each write, and from it on.

    The error must be the disk's and name a file. Nothing that was half written may be seen, CURRENT must be
    what it was, and the same again, with room, must end with the new release live.
    """
    wrong: list[str] = []
    tried = 0
    for stays in (False, True):
        for write in range(1_000):
            world = CommitWorld.on_disk(data / f"{stays}-{write}")
            old = world.build(1, 1)
            world.publish(old)
            with _Disk(write, stays).full() as disk:
                said = _publish(world)
            if disk.failed is not None:
                tried += 1
                if problem := said or _visible(world, old) or after_fault(world, old):
                    wrong.append(f"{disk.failed}: {problem}")
            shutil.rmtree(world.data)
            if disk.failed is None:
                break
    return FaultResult(tried, tuple(wrong))


def _publish(world: CommitWorld) -> str:
    """What is wrong with the error that came, if one did."""
    try:
        world.publish(world.build(2, 2, "ivf"))
    except OSError as error:
        named = error.filename is not None and Path(error.filename).is_relative_to(world.data)
        return "" if error.errno == errno.ENOSPC and named else f"{error!r} names no file"
    except Exception as error:
        return f"{error!r} is not the disk's"
    return ""


def _visible(world: CommitWorld, old: str) -> str:
    """What is there and should not be: anything half written, or another CURRENT."""
    try:
        if (live := world.live_is_complete()) != old:
            return f"{live} is live"
        for release in world.releases.list():
            read_release(world.releases.directory(release))
        for snapshot in list_snapshots(world.data / "snapshots"):
            read_snapshot(world.data / "snapshots", snapshot)
    except (Refused, OSError) as error:
        return str(error)
    left = [path.name for path in world.data.rglob(".*") if path.name != ".lock"]
    return f"{left} was left" if left else ""


@dataclass
class _Disk:
    """Is full at the write number `at`, and from then on if it `stays` so."""

    at: int
    stays: bool
    count: int = 0
    failed: str | None = None

    def refuses(self, what: str) -> bool:
        """Count a write; whether there is room for half of it only."""
        full = self.count == self.at or (self.stays and self.count > self.at)
        self.count += 1
        if full and self.failed is None:
            self.failed = what
        return full

    @contextmanager
    def full(self) -> Iterator["_Disk"]:
        """Let the writes of this process end on this disk."""
        patches = [
            mock.patch.object(Path, "open", self._opening(Path.open)),
            mock.patch.object(index.row_files, "save_file", self._saving(save_file)),
            mock.patch.object(pq, "write_table", self._halved(pq.write_table, 1, _arrow_error)),
            mock.patch.object(faiss, "write_index", self._halved(faiss.write_index, 1, _faiss_error)),
            mock.patch.object(shutil, "copyfile", self._halved(shutil.copyfile, 1, _system_error)),
        ]
        for patch in patches:
            patch.start()
        try:
            yield self
        finally:
            for patch in patches:
                patch.stop()

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opening(path: Path, mode: str = "r", *args: Any, **named: Any) -> Any:
            file = real(path, mode, *args, **named)
            return file if mode in ("r", "rb") else _Halving(file, path, self)

        return opening

    def _saving(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def saving(tensors: Any, path: Path) -> None:
            # It writes another file and renames that, so nothing is left.
            if self.refuses(path.name):
                said = f"Error while serializing: I/O error: {_SAYS} (os error {errno.ENOSPC})"
                raise SafetensorError(said)
            real(tensors, path)

        return saving

    def _halved(
        self, real: Callable[..., Any], place: int, error: Callable[[Path], Exception]
    ) -> Callable[..., Any]:
        def halved(*args: Any, **named: Any) -> None:
            path = Path(args[place])
            full = self.refuses(path.name)
            real(*args, **named)
            if full:
                os.truncate(path, path.stat().st_size // 2)
                raise error(path)

        return halved


class _Halving:
    """A file opened for writing."""

    def __init__(self, file: Any, path: Path, disk: _Disk) -> None:
        self._file, self._path, self._disk = file, path, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Halving":
        return self

    def __exit__(self, *details: object) -> None:
        self._file.close()

    def write(self, content: Any) -> int:
        if self._disk.refuses(self._path.name):
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            raise _system_error(self._path)
        written: int = self._file.write(content)
        return written


def _system_error(path: Path) -> Exception:
    return OSError(errno.ENOSPC, _SAYS)


def _arrow_error(path: Path) -> Exception:
    return OSError(errno.ENOSPC, f"Error writing bytes to file. Detail: [errno {errno.ENOSPC}] {_SAYS}")


def _faiss_error(path: Path) -> Exception:
    return RuntimeError(f"Error: 'ret == (size)' failed: write error in {path}: 983 != 5000 ({_SAYS})")
