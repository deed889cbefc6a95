"""Which snapshots go, and how: by one rename to a hidden name, so a killed deletion leaves no half of one.

A snapshot appears by one rename with READY inside. So what has a snapshot's name and no READY is a wreck, and
would keep the same snapshot from being written again.
"""

import errno
import logging
import re
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path

from schemas.artefacts import READY
from schemas.times import DAY_MS

from .snapshots import readable_snapshots, snapshot_age

log = logging.getLogger(__name__)

Pause = Callable[[float], None]

_DELETING = ".deleting-"
_NAME = re.compile(r"[a-z][a-z0-9-]*-[0-9]{8}T[0-9]{2}Z-[0-9a-f]{8}")
_TRIES = 5
_PAUSE_SECONDS = 0.1
"""Others that delete the same files are through by then; what is still there then stays for an hour."""


def retain_snapshots(
    root: Path,
    tier: str,
    count: int,
    days: int = 0,
    retired: Collection[str] = (),
    pause: Pause = time.sleep,
) -> list[str]:
    """Delete the old snapshots of each tower version of a tier; returns what went.

    The `count` newest stay, and of those before them the last of each day (UTC), for the `days` newest days.
    Of `retired` towers only the last of each day stays, for `days` days up to the tier's newest snapshot:
    they get no newer ones that would take their place. A release does not need its snapshot any more: it has
    the files itself. What cannot be deleted is logged, and tried again by the next call.
    """
    seen: dict[tuple[str, ...], int] = {}
    days_seen: dict[tuple[str, ...], list[int]] = {}
    deleted: list[str] = []
    newest_first = sorted(readable_snapshots(root), key=snapshot_age, reverse=True)
    mine = [manifest for manifest in newest_first if manifest.tier == tier]
    for manifest in mine:
        versions = tuple(sorted(manifest.versions))
        seen[versions] = seen.get(versions, 0) + 1
        known, day = days_seen.setdefault(versions, []), manifest.hour_ms // DAY_MS
        last_of_day = day not in known
        if last_of_day:
            known.append(day)
        if versions and set(versions) <= set(retired):
            stays = last_of_day and day > mine[0].hour_ms // DAY_MS - days
        else:
            stays = seen[versions] <= count or (last_of_day and len(known) <= days)
        if not stays and delete_snapshot(root, manifest.snapshot_id, pause):
            deleted.append(manifest.snapshot_id)
    sweep_deleted(root, pause)
    return deleted


def delete_snapshot(root: Path, snapshot_id: str, pause: Pause = time.sleep) -> bool:
    """Delete a snapshot; says whether it was there and is there no more. Others may delete the same one at
    the same time: one of them is told that it was.

    What the disk does not let go (another user's files; on NFS those that somebody has open) is logged, and
    stays until `sweep_deleted` finds it: under a hidden name, unless the renaming was refused too.
    """
    directory, grave = root / snapshot_id, root / f"{_DELETING}{snapshot_id}"
    was_there = False
    try:
        for _ in range(_TRIES):
            if not directory.exists():
                break
            _bury(grave, pause)  # a fixed name, and none to be made: a full disk has no room for a directory
            ready = (directory / READY).is_file()
            if _tried(lambda: directory.rename(grave)):
                was_there = was_there or ready
            else:
                pause(_PAUSE_SECONDS)
        if directory.exists():
            log.warning("%s cannot be deleted: %s is in the way", directory, grave.name)
    except OSError as error:
        log.warning("%s cannot be deleted: %s", directory, error)
    _bury(grave, pause)
    return was_there


def sweep_deleted(root: Path, pause: Pause = time.sleep) -> None:
    """Delete what killed deletions have left of snapshots. What cannot be deleted keeps nothing else."""
    for grave in root.glob(f"{_DELETING}*"):
        _bury(grave, pause)
    for path in root.glob("*"):
        if _NAME.fullmatch(path.name) and _is_wreck(path):
            delete_snapshot(root, path.name, pause)


def _is_wreck(path: Path) -> bool:
    try:
        return path.is_dir() and not (path / READY).is_file()
    except OSError as error:
        log.warning("%s cannot be looked at, and is left alone: %s", path, error)
        return False


def _bury(grave: Path, pause: Pause) -> None:
    """Delete what has the hidden name already, or log why that does not work."""
    try:
        for _ in range(_TRIES):
            if not grave.exists():
                return
            if not _tried(lambda: shutil.rmtree(grave)):
                pause(_PAUSE_SECONDS)
        left = grave.exists()
    except OSError as error:
        log.warning("%s cannot be deleted: %s", grave, error)
        return
    if left:
        log.warning("%s cannot be emptied: the next clean-up tries again", grave)


def _tried(step: Callable[[], object]) -> bool:
    """False when something was gone, or still there, that should not be. Of two that delete the same snapshot
    one finds that; and on NFS a file that somebody has open leaves another in its directory.
    """
    try:
        step()
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True
