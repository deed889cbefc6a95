"""What a power cut may leave of a publication, and calls of the file system that fail or say so wrongly.

The disk is watched, not simulated: around each fsync, rename, link and deletion the tree is looked at. A
crash keeps of a file what was last synced, and of a directory the names that were last synced; what was
changed since may be there or not, name by name. So each moment of a publication has several possible
remains, and a reader has to find the old release or the new one, complete, in all of them.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from schemas.errors import Refused

from .commit_world import CommitWorld

_STEPS: list[tuple[object, str]] = [
    (os, "fsync"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "hardlink_to"),
    (Path, "unlink"),
    (shutil, "rmtree"),
]
_MIXED_STATES = 6

Names = dict[str, int]
"""Entries of a directory: name -> inode."""


@dataclass
class WatchedDisk:
    """What is on the disk for certain (synced), and what is there now."""

    root: Path
    contents: dict[int, bytes] = field(default_factory=dict)
    """Inode of a file -> its content when it was last synced."""
    entries: dict[int, Names] = field(default_factory=dict)
    """Inode of a directory -> its names when it was last synced."""

    def sync_everything(self) -> None:
        """As after a quiet hour."""
        for path in [self.root, *self.root.rglob("*")]:
            self.synced(path)

    def synced(self, path: Path) -> None:
        """One file or directory was fsynced."""
        inode = path.stat().st_ino
        if path.is_dir():
            self.entries[inode] = _names(path)
        else:
            self.contents[inode] = path.read_bytes()

    def remains(self, into: Path, keep: Callable[[], bool]) -> None:
        """Write what a crash now leaves; `keep` decides on each thing that is not certain."""
        places = {path.stat().st_ino: path for path in [self.root, *self.root.rglob("*")]}
        self._directory(self.root.stat().st_ino, places, into, keep)

    def _directory(self, inode: int, places: dict[int, Path], into: Path, keep: Callable[[], bool]) -> None:
        into.mkdir(parents=True)
        certain = self.entries.get(inode, {})
        present = _names(places[inode]) if inode in places else {}
        for name in sorted(certain.keys() | present.keys()):
            entry = certain.get(name)
            if entry != present.get(name) and keep():
                entry = present.get(name)
            if entry is None:
                continue
            if entry in self.entries or (entry in places and places[entry].is_dir()):
                self._directory(entry, places, into / name, keep)
            else:
                (into / name).write_bytes(self._content(entry, places, keep))

    def _content(self, inode: int, places: dict[int, Path], keep: Callable[[], bool]) -> bytes:
        certain = self.contents.get(inode, b"")
        if inode not in places:
            return certain
        present = places[inode].read_bytes()
        return present if present != certain and keep() else certain


def _names(directory: Path) -> Names:
    return {entry.name: entry.inode() for entry in os.scandir(directory)}


@dataclass(frozen=True)
class CrashResult:
    """How many remains were read, and in which of them something was wrong."""

    moments: int
    states: int
    dangling: tuple[str, ...]


def replay_crashes(data: Path, seed: int) -> CrashResult:
    """Publish a release over another, and read what a power cut leaves at each moment of it.

    Wrong is: CURRENT names what is not there or not whole, CURRENT or the trail cannot be read, or they
    disagree; and after the call returned, anything but the new release.
    """
    world = CommitWorld.on_disk(data / "disk")
    old = world.build(1, 1, "ivf")
    world.publish(old)
    disk = WatchedDisk(world.data)
    disk.sync_everything()
    chance = random.Random(seed)
    moments, states, dangling = 0, 0, []
    allowed = [old]

    def look() -> None:
        nonlocal moments, states
        moments += 1
        keepers = [lambda: False, lambda: True, *[lambda: chance.random() < 0.5] * _MIXED_STATES]
        for keep in keepers:
            states += 1
            left = data / f"crash-{states}"
            disk.remains(left, keep)
            if wrong := _wrong(CommitWorld.on_disk(left), allowed):
                dangling.append(f"moment {moments}: {wrong}")
            shutil.rmtree(left)

    with _watched(disk, look):
        new = world.build(2, 2, "ivf")
        allowed.append(new)
        world.publish(new)
    allowed.remove(old)
    look()
    return CrashResult(moments, states, tuple(dangling))


def _wrong(world: CommitWorld, allowed: list[str]) -> str:
    try:
        current = world.live_is_complete()
        if current not in allowed:
            return f"{current} is live"
        if (trail := world.releases.audit()) and trail[-1].release_id != current:
            return f"{current} is live, the trail ends with {trail[-1].release_id}"
    except (Refused, OSError) as error:
        return str(error)
    return ""


@contextmanager
def _watched(disk: WatchedDisk, look: Callable[[], None]) -> Iterator[None]:
    """Call `look` before and after each step; tell the disk what was synced."""
    watching = True

    def wrap(step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            nonlocal watching
            if not watching:
                return step(*args, **named)
            watching = False
            try:
                look()
                done = step(*args, **named)
                if step is real_fsync:
                    disk.synced(Path(os.readlink(f"/proc/self/fd/{args[0]}")))
                look()
            finally:
                watching = True
            return done

        return wrapped

    real_fsync = os.fsync
    patches = [mock.patch.object(owner, name, wrap(getattr(owner, name))) for owner, name in _STEPS]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


@dataclass(frozen=True)
class FaultResult:
    """Publications with one failing step each, and those after which something was wrong."""

    tried: int
    wrong: tuple[str, ...]


class _Fault(OSError):
    """Input/output error."""


def fail_each_step(data: Path) -> FaultResult:
    """Let each step of a publication fail, before it does anything and after it did everything.

    Then what is live must be whole, what went live must not have lost a file, and doing it again must end
    with the new release live and one move for it.
    """
    wrong: list[str] = []
    tried = 0
    for after in (False, True):
        for step in range(1_000):
            world = CommitWorld.on_disk(data / f"{after}-{step}")
            old = world.build(1, 1)
            world.publish(old)
            with _failing(step, after) as failed, suppress(OSError):
                world.publish(world.build(2, 2))
            if not failed:
                shutil.rmtree(world.data)
                break
            tried += 1
            if problem := after_fault(world, old):
                wrong.append(f"{failed[0]} {'after' if after else 'before'} it was done: {problem}")
            shutil.rmtree(world.data)
    return FaultResult(tried, tuple(wrong))


def after_fault(world: CommitWorld, old: str) -> str:
    """What is wrong after a failure, now and when it is done again; empty when nothing is."""
    try:
        live = world.live_is_complete()
        trail = [line.release_id for line in world.releases.audit()]
        new = world.build(2, 2)
        if live not in (old, new) or trail[-1] != live:
            return f"{live} is live, the trail is {trail}"
        world.publish(new)
        world.live_is_complete()
        trail = [line.release_id for line in world.releases.audit()]
    except (Refused, OSError) as error:
        return str(error)
    return "" if trail == [old, new] else f"the trail is {trail} after doing it again"


@contextmanager
def _failing(at: int, after: bool) -> Iterator[list[str]]:
    """Let the step number `at` fail; yields a list that gets its name."""
    failed: list[str] = []
    count = 0

    def wrap(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count - 1 != at:
                return step(*args, **named)
            failed.append(name)
            if after:
                step(*args, **named)
            raise _Fault(f"{name} failed")

        return wrapped

    patches = [mock.patch.object(owner, name, wrap(name, getattr(owner, name))) for owner, name in _STEPS]
    for patch in patches:
        patch.start()
    try:
        yield failed
    finally:
        for patch in patches:
            patch.stop()
