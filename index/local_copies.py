"""Releases as directories of this machine: those built here, and copies of those in an object store."""

import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from schemas.artefacts import READY, STAGED_PREFIX, sweep_unheld

from .contents import release_manifest
from .release_contract import Ids, is_release_id

_DELETING = ".deleting-"
_HALF_WRITTEN = (STAGED_PREFIX + "*", ".CURRENT-*", ".audit.*-*", "..last-seen-*")
"""Directories of builds, and files that were to replace another."""

ABANDONED_SECONDS = 86_400.0
"""No build goes on for so long without adding a file."""


@dataclass(frozen=True)
class LocalCopies:
    """The directories below `root`. Several processes may look after them at once."""

    root: Path

    def ids(self) -> Ids:
        """The finished ones."""
        if not self.root.is_dir():
            return []
        return [p.name for p in self.root.iterdir() if is_release_id(p.name) and (p / READY).is_file()]

    def whole(self, release_id: str) -> bool:
        """Whether every file is there in its size. Raises Refused when the manifest is damaged.

        The checksums are not looked at here: whoever loads or publishes the release checks those.
        """
        directory = self.root / release_id
        if not (directory / READY).is_file():
            return False
        sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
        return all(sizes.get(one.name) == one.size_bytes for one in release_manifest(directory).files)

    def newest(self, count: int, *, needed: Collection[str]) -> Ids:
        """Delete all but the `count` newest by hour and those that are needed; returns what was deleted."""
        by_age = sorted(self.ids(), key=lambda one: (hour_of(one), self._finished_ns(one)))
        doomed = [one for one in by_age[: max(len(by_age) - count, 0)] if one not in needed]
        self.drop(doomed)
        return doomed

    def bound(self, count: int, *, among: Collection[str], needed: Collection[str]) -> Ids:
        """Of the copies `among` keep `count`, those that came last and the needed ones; returns what went."""
        by_age = sorted(set(self.ids()) & set(among), key=self._finished_ns)
        surplus = max(len(by_age) - count, 0)
        doomed = [one for one in by_age if one not in needed][:surplus]
        self.drop(doomed)
        return doomed

    def drop(self, release_ids: Ids) -> None:
        """Delete. A server that has one open keeps its files until it lets go of them."""
        for release_id in release_ids:
            with suppress(FileNotFoundError):  # another process was first
                # Hidden first: nobody may find half a release under its name.
                (self.root / release_id).rename(self.root / (_DELETING + release_id))
        for leftover in self.root.glob(_DELETING + "*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _finished_ns(self, release_id: str) -> int:
        try:
            return (self.root / release_id / READY).stat().st_mtime_ns
        except FileNotFoundError:
            return 0


def sweep_staged(root: Path, now_ms: int) -> None:
    """Delete what killed processes left half-written: directories that no process holds, and what was
    written more than `ABANDONED_SECONDS` ago (files, and directories where they cannot be locked).
    """
    sweep_unheld(root)
    for pattern in _HALF_WRITTEN:
        for path in root.glob(pattern):
            with suppress(FileNotFoundError):  # whoever wrote it is through with it
                if now_ms / 1000 - path.stat().st_mtime <= ABANDONED_SECONDS:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def hour_of(release_id: str) -> str:
    """The hour, which ids begin with; sorts as hours do."""
    return release_id.split("-", maxsplit=1)[0]
