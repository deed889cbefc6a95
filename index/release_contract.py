"""What every release store does, wherever it keeps its releases, and the checks that all of them share."""

import re
from pathlib import Path
from time import time_ns
from types import EllipsisType
from typing import Literal, Protocol

from schemas.errors import Refused
from schemas.logs import ReleasePublished
from schemas.manifests import ReleaseManifest

from . import checks

# Named here, because inside the protocol `list` is a method.
Ids = list[str]
Moves = list[ReleasePublished]
Expected = str | EllipsisType | None

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}")
"""Ids become names of directories and objects: nothing in one may lead out of the store."""


class Releases(Protocol):
    """Finished releases, the one pointer that names the live one, and who moved it when."""

    @property
    def root(self) -> Path:
        """The directory that releases are built in and read from."""
        ...

    def list(self) -> Ids:
        """Ids of the finished releases, oldest hour first."""
        ...

    def directory(self, release_id: str) -> Path:
        """Where a release lies on this machine, or would lie. Raises Refused for what cannot be an id."""
        ...

    def fetch(self, release_id: str) -> Path:
        """`directory`, with the release in it, brought here first where that is needed.

        Raises Refused for one that is nowhere or damaged, RetryableError when it cannot be reached.
        """
        ...

    def fetch_tower(self, version: str) -> None:
        """See to it that the tower is in the towers directory of this machine, where it can be had at all.

        Raises Refused for one that is damaged, RetryableError when it cannot be reached.
        """
        ...

    def manifest(self, release_id: str) -> ReleaseManifest:
        """The manifest alone; the release's files are not looked at. Raises Refused."""
        ...

    def current(self) -> str | None:
        """The live release's id. Raises Refused when the pointer holds something else."""
        ...

    def last_seen(self) -> str | None:
        """What `current` said last, without asking anybody; kept over a restart. It may be out of date."""
        ...

    def comparable_live(self) -> ReleaseManifest | None:
        """The live release's manifest, to measure a candidate by. None when there is none or it is damaged:
        a damaged one may be replaced by any.
        """
        ...

    def publish(
        self,
        release_id: str,
        *,
        actor: str,
        reason: str,
        expected_current: Expected = ...,
        registry_hash: str | None = None,
        min_rows_ratio: float = 0.5,
    ) -> ReleasePublished:
        """Make a release the live one, after reading it back and checking it against the live one.

        With `expected_current` the move happens only while that release (or None) is live; with
        `registry_hash` only for a release of that registry. Publishing what is live changes nothing.
        Raises Refused, then nothing has moved.
        """
        ...

    def rollback(
        self,
        *,
        actor: str,
        reason: str,
        expected_current: Expected = ...,
        registry_hash: str | None = None,
    ) -> ReleasePublished:
        """Make the live release's predecessor live again; repeated, it goes further back.

        Raises Refused (`no_predecessor`, `current_moved`, `registry_mismatch`, or what is wrong with it).
        """
        ...

    def retain(self, count: int) -> Ids:
        """Delete all but the `count` newest releases; returns what was deleted.

        The live release and its predecessor stay in any case, and so does what others are writing.
        """
        ...

    def discard(self, release_ids: Ids) -> Ids:
        """Delete those of these releases that were never live; returns what was deleted.

        A publication at the same moment either comes first, and then its release stays, or is refused.
        """
        ...

    def audit(self) -> Moves:
        """Every move of the pointer, in order."""
        ...


def wall_clock_ms() -> int:
    """Now, in milliseconds since 1970."""
    return time_ns() // 1_000_000


def is_release_id(text: str) -> bool:
    """Whether it can name a release."""
    return _ID.fullmatch(text) is not None


def check_release_id(release_id: str) -> str:
    """The id. Raises Refused for what cannot be one."""
    if not is_release_id(release_id):
        raise Refused("bad_id", "a release id", repr(release_id[:80]), "`skewless release list` shows them.")
    return release_id


def check_expected(current: str | None, expected: Expected) -> None:
    """Raises Refused (`current_moved`) when another release than the expected one is live."""
    if not isinstance(expected, EllipsisType) and current != expected:
        fix = "Somebody else published: look at what is live now, then decide again."
        raise Refused("current_moved", f"{expected} to be live", str(current), fix)


def check_candidate(candidate: ReleaseManifest, live: ReleaseManifest | None, min_rows_ratio: float) -> None:
    """Raises Refused for a release that is older or much smaller than the live one, in all or in one tier."""
    checks.not_stale(candidate.hour_ms, live)
    checks.enough_rows(candidate.index.rows, live, min_rows_ratio)
    checks.tiers_fit(candidate.tiers, live, min_rows_ratio)


def no_predecessor() -> Refused:
    """A rollback from the first release."""
    return Refused("no_predecessor", "a release before the live one", "none", "Publish a release instead.")


def moved(
    manifest: ReleaseManifest,
    previous: str | None,
    action: Literal["publish", "rollback"],
    who_and_why: tuple[str, str],
    at_ms: int,
) -> ReleasePublished:
    """The line that records a move."""
    actor, reason = who_and_why
    return ReleasePublished(
        release_id=manifest.release_id,
        previous_release_id=previous,
        tower_version=manifest.tower_version,
        snapshot_id=manifest.snapshot_id,
        action=action,
        actor=actor,
        reason=reason,
        occurred_at_ms=at_ms,
    )
