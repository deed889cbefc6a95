"""Which snapshots go, and how: by one rename to a hidden name, so a killed deletion leaves no half of one.

A snapshot appears by one rename with READY inside. So what has a snapshot's name and no READY is a wreck, and
would keep the same snapshot from being written again.
"""

import errno
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.artefacts import READY

from .snapshots import readable_snapshots, snapshot_age

_DAY_MS = 86_400_000
_DELETING = ".deleting-"
_NAME = re.compile(r"[a-z][a-z0-9-]*-[0-9]{8}T[0-9]{2}Z-[0-9a-f]{8}")


def retain_snapshots(
    root: Path, tier: str, count: int, days: int = 0, retired: Collection[str] = ()
) -> list[str]:
    """Delete the old snapshots of each tower version of a tier; returns what went.

    The `count` newest stay, and of those before them the last of each day (UTC), for the `days` newest days.
    Of `retired` towers only the last of each day stays, for `days` days up to the tier's newest snapshot:
    they get no newer ones that would take their place. A release does not need its snapshot any more: it has
    the files itself.
    """
    seen: dict[tuple[str, ...], int] = {}
    days_seen: dict[tuple[str, ...], list[int]] = {}
    deleted: list[str] = []
    newest_first = sorted(readable_snapshots(root), key=snapshot_age, reverse=True)
    mine = [manifest for manifest in newest_first if manifest.tier == tier]
    for manifest in mine:
        versions = tuple(sorted(manifest.versions))
        seen[versions] = seen.get(versions, 0) + 1
        known, day = days_seen.setdefault(versions, []), manifest.hour_ms // _DAY_MS
        last_of_day = day not in known
        if last_of_day:
            known.append(day)
        if versions and set(versions) <= set(retired):
            stays = last_of_day and day > mine[0].hour_ms // _DAY_MS - days
        else:
            stays = seen[versions] <= count or (last_of_day and len(known) <= days)
        if not stays and delete_snapshot(root, manifest.snapshot_id):
            deleted.append(manifest.snapshot_id)
    sweep_deleted(root)
    return deleted


def delete_snapshot(root: Path, snapshot_id: str) -> bool:
    """Delete a snapshot; says whether it was there. Others may delete the same one at the same time: one
    of them is told that it was, and none returns before the files are gone.
    """
    directory, grave = root / snapshot_id, root / f"{_DELETING}{snapshot_id}"
    was_there = False
    while directory.exists():
        _bury(grave)  # a fixed name, and none to be made: on a full disk there is no room for a directory
        ready = (directory / READY).is_file()
        with _side_by_side():
            directory.rename(grave)
            was_there = was_there or ready
    _bury(grave)
    return was_there


def sweep_deleted(root: Path) -> None:
    """Delete what killed deletions have left of snapshots."""
    for grave in root.glob(f"{_DELETING}*"):
        _bury(grave)
    for path in root.glob("*"):
        if _NAME.fullmatch(path.name) and path.is_dir() and not (path / READY).is_file():
            delete_snapshot(root, path.name)


def _bury(grave: Path) -> None:
    while grave.exists():
        with _side_by_side():
            shutil.rmtree(grave)


@contextmanager
def _side_by_side() -> Iterator[None]:
    """Of two that delete the same snapshot one finds something gone, or the other's remains in its way."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
