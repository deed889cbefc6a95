"""Releases as directories of this machine: those built here, and copies of those in an object store."""

import logging
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from schemas.artefacts import READY, STAGED_PREFIX, sweep_unheld

from .release_contract import Ids, is_release_id

log = logging.getLogger(__name__)

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
        """The finished ones. What has a name that no release can have is somebody's own, and left alone."""
        if not self.root.is_dir():
            return []
        return [path.name for path in self.root.iterdir() if is_release_id(path.name) and _is_finished(path)]

    def keep_newest(self, count: int, *, needed: Collection[str]) -> Ids:
        """Delete all but the `count` newest by hour and those that are needed; returns what was deleted."""
        by_age = sorted(self.ids(), key=lambda one: (hour_of(one), self._finished_ns(one), one))
        return self.drop([one for one in by_age[: max(len(by_age) - count, 0)] if one not in needed])

    def keep_latest(self, count: int, *, among: Collection[str], needed: Collection[str]) -> Ids:
        """Of the copies `among` keep `count`, those that came last and the needed ones; returns what went."""
        by_age = sorted(set(self.ids()) & set(among), key=self._finished_ns)
        surplus = max(len(by_age) - count, 0)
        return self.drop([one for one in by_age if one not in needed][:surplus])

    def drop(self, release_ids: Ids) -> Ids:
        """Delete; returns what is gone. A server that has one open keeps its files until it lets go of them.

        What the disk does not let go (another user's, for one) is logged, stays, and keeps nothing else.
        """
        gone: Ids = []
        for release_id in release_ids:
            grave = self.root / (_DELETING + release_id)
            shutil.rmtree(grave, ignore_errors=True)  # an earlier deletion that died may have left it
            try:
                # Hidden first: nobody may find half a release under its name.
                with suppress(FileNotFoundError):  # another process was first
                    (self.root / release_id).rename(grave)
                gone.append(release_id)
            except OSError as error:
                log.warning("%s cannot be deleted: %s", self.root / release_id, error)
        for leftover in self.root.glob(_DELETING + "*"):
            shutil.rmtree(leftover, ignore_errors=True)
        return gone

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
            with suppress(OSError):  # whoever wrote it is through with it, or it is another user's
                if now_ms / 1000 - path.stat().st_mtime <= ABANDONED_SECONDS:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def _is_finished(directory: Path) -> bool:
    try:
        return (directory / READY).is_file()
    except OSError:  # closed to this user
        return False


def hour_of(release_id: str) -> str:
    """The hour, which ids begin with; sorts as hours do."""
    return release_id.split("-", maxsplit=1)[0]
