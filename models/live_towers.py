"""Which tower versions there are, and LIVE: those that the worker embeds with, the serving one first."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.artefacts import READY, write_atomic
from schemas.errors import Refused
from schemas.file_locks import held_alone, locked

_FILE = "LIVE"
_LOCK = ".LIVE.lock"


def known_towers(root: Path) -> list[str]:
    """Versions of the finished checkpoints under `root`; none where it is not there.

    Raises OSError where it cannot be listed, which is not the same as none.
    """
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if (root / entry.name / READY).is_file())
    except FileNotFoundError:
        return []


def complete_version(root: Path, prefix: str) -> str:
    """The one tower version under `root` that begins with `prefix`. Raises Refused, and as `known_towers`."""
    matches = [version for version in known_towers(root) if version.startswith(prefix)]
    if len(matches) != 1:
        raise Refused(
            "unknown_tower",
            expected="a prefix of exactly one tower version",
            came=f"{prefix!r}, which fits {len(matches)}",
            fix="`skewless towers list --json` prints them in full.",
        )
    return matches[0]


def read_live_towers(root: Path) -> list[str]:
    """Tower versions in LIVE; empty when there is none yet.

    Raises Refused when the file is not a JSON list of tower versions, one at least.
    """
    try:
        text = (root / _FILE).read_bytes()
    except FileNotFoundError:
        return []
    try:
        versions = json.loads(text)
    except ValueError:
        versions = None
    if not isinstance(versions, list) or not versions or not all(map(_is_version, versions)):
        raise Refused(
            "live_towers",
            expected="a JSON list of one or more tower versions (64 hex digits each)",
            came=repr(text[:80]),
            fix=f"Write {root / _FILE} with `skewless towers live VERSION …`.",
        )
    return versions


def _is_version(one: object) -> bool:
    return isinstance(one, str) and len(one) == 64


class LockedLiveTowers:
    """LIVE while nobody else may write it; `locked_live_towers` gives one."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self) -> list[str]:
        """See `read_live_towers`."""
        return read_live_towers(self._root)

    def write(self, versions: list[str]) -> None:
        """Replace LIVE atomically; nothing is written when it says so already.

        Raises Refused when a version has no checkpoint here, or stands twice.
        """
        _check(self._root, versions)
        text = (json.dumps(versions) + "\n").encode("ascii")
        path = self._root / _FILE
        if not path.is_file() or path.read_bytes() != text:
            write_atomic(path, text)


@contextmanager
def locked_live_towers(root: Path) -> Iterator[LockedLiveTowers]:
    """For whoever reads LIVE to write it: nobody else writes it, or publishes by it, meanwhile."""
    with locked(root / _LOCK):
        yield LockedLiveTowers(root)


@contextmanager
def free_live_towers(root: Path) -> Iterator[LockedLiveTowers]:
    """`locked_live_towers` for who cannot wait. Raises Refused (`live_locked`) while somebody else has it."""
    fix = "Somebody publishes or rolls over now: try again when that is done."
    with held_alone(root / _LOCK, Refused("live_locked", f"nobody to change {root / _FILE}", "one", fix)):
        yield LockedLiveTowers(root)


def write_live_towers(root: Path, versions: list[str]) -> None:
    """Replace LIVE, whatever it says now. Raises Refused as `LockedLiveTowers.write` does."""
    _check(root, versions)  # before a lock file is made where no towers are
    with locked_live_towers(root) as live:
        live.write(versions)


def _check(root: Path, versions: list[str]) -> None:
    missing = [version for version in versions if not (root / version / "manifest.json").is_file()]
    if missing or len(set(versions)) != len(versions) or not versions:
        raise Refused(
            "live_towers",
            expected="one or more different tower versions whose checkpoints are in " + str(root),
            came=", ".join(missing or versions) or "none",
            fix="`skewless towers list` shows the checkpoints that are there.",
        )
