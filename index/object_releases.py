"""Releases in an object store, with the same calls as `ReleaseStore`; this machine keeps copies to read.

A release is built in `root` as ever. Publishing sends its tower and its files up, then moves the pointer
(`object_moves`). A reader brings the release and its tower down into the same directories, complete and
checked (`object_mirror`), so whoever maps, verifies or loads them need not know where they came from.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from schemas.artefacts import READY, staged, write_atomic
from schemas.errors import Refused, RetryableError
from schemas.logs import ReleasePublished
from schemas.manifests import ReleaseManifest
from schemas.tiers import VersionPolicy

from . import checks
from .contents import read_release, release_manifest
from .local_copies import LocalCopies, sweep_staged
from .object_mirror import check_sizes, download, is_finished, is_whole, remote_manifest, upload
from .object_moves import PointerMoves, Seen
from .object_retention import RELEASES, delete_releases, finished, surplus, too_many_races
from .object_store import Objects, StoreRefused
from .object_towers import StoredTowers
from .release_contract import (
    Expected,
    Ids,
    Moves,
    check_candidate,
    check_expected,
    check_release_id,
    is_release_id,
    moved,
    no_predecessor,
    wall_clock_ms,
)

log = logging.getLogger(__name__)

_LAST_SEEN = ".last-seen"
_RACES = 20


@dataclass(frozen=True)
class Places:
    """Where this machine keeps its copies, and how many releases of them.

    An upload without READY that nothing was added to for `grace_seconds` is taken for abandoned.
    """

    root: Path
    towers: Path
    cached_releases: int = 3
    grace_seconds: float = 3600.0


class ObjectReleases:
    """Releases of one bucket and prefix. Any number of machines may publish; compare-and-set decides."""

    def __init__(
        self,
        objects: Objects,
        places: Places,
        now_ms: Callable[[], int] = wall_clock_ms,
        new_token: Callable[[], str] = lambda: uuid4().hex,
        version_policy: VersionPolicy = "enforce",
    ) -> None:
        self._version_policy = version_policy
        self.root = places.root
        self._objects = objects
        self._places = places
        self._towers = StoredTowers(objects, places.towers)
        self._now_ms = now_ms
        self._copies = LocalCopies(places.root)
        # By store: the setting may name another one tomorrow, and moves are numbered from 1 in each.
        store = hashlib.sha256(objects.address.encode()).hexdigest()[:16]
        self._moves = PointerMoves(objects, places.root / ".moves" / store, new_token)
        self._last_seen = places.root / f"{_LAST_SEEN}-{store}"
        self._kept = True
        """Whether `_last_seen` could be written the last time: what is told once."""

    def list(self) -> Ids:
        """See `Releases`: those in the store, and those built here that were not published yet."""
        return sorted({*finished(self._objects), *self._copies.ids()})

    def directory(self, release_id: str) -> Path:
        """See `Releases`."""
        return self.root / check_release_id(release_id)

    def fetch(self, release_id: str) -> Path:
        """See `Releases`. Brings the release's tower too, and lets go of older copies."""
        directory, prefix = self.directory(release_id), f"{RELEASES}/{release_id}"
        # A damaged one that the store has not is the only one: whoever reads it says what is wrong with it.
        if not is_whole(directory, ReleaseManifest) and (
            not directory.is_dir() or is_finished(self._objects, prefix)
        ):
            download(self._objects, prefix, directory, ReleaseManifest)
            self._bound_copies(release_id)
        self.fetch_tower(release_manifest(directory).tower_version)
        return directory

    def fetch_tower(self, version: str) -> None:
        """See `Releases`."""
        self._towers.fetch(version)

    def manifest(self, release_id: str) -> ReleaseManifest:
        """See `Releases`. Asks the store when there is no copy here, or a damaged one."""
        directory = self.directory(release_id)
        if (directory / READY).is_file():
            try:
                return release_manifest(directory)
            except Refused:
                if not is_finished(self._objects, f"{RELEASES}/{release_id}"):
                    raise
        return self._remote_manifest(release_id)

    def current(self) -> str | None:
        """See `Releases`. Raises RetryableError while the store cannot be reached."""
        seen = self._moves.read()
        if seen is None:
            return None
        release_id = check_release_id(seen.pointer.release_id)
        if release_id != self.last_seen():
            self._keep_last_seen(release_id)
        return release_id

    def _keep_last_seen(self, release_id: str) -> None:
        """NOTE: a full or read-only disk keeps no server from going back to a release that it has."""
        try:
            write_atomic(self._last_seen, release_id.encode())
        except OSError as error:
            if self._kept:
                log.warning(
                    "%s cannot be written; a start while the store is away needs it: %s",
                    self._last_seen,
                    error,
                )
            self._kept = False
        else:
            self._kept = True

    def last_seen(self) -> str | None:
        """See `Releases`."""
        try:
            text = self._last_seen.read_bytes().decode("ascii", "replace")
        except OSError:
            return None
        return text if is_release_id(text) else None

    def comparable_live(self) -> ReleaseManifest | None:
        """See `Releases`."""
        return self._comparable(self._moves.read())

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
        """See `Releases`. What the store has of it already is read back, and put again where it differs.

        Raises RetryableError when the store goes away, or the release is being deleted.
        """
        directory = self.fetch(release_id)
        candidate = read_release(directory, self._version_policy).manifest
        if registry_hash is not None:
            checks.registry(candidate.registry_hash, registry_hash)
        for lost in range(_RACES):
            seen = self._expect(expected_current)
            live = seen is not None and seen.pointer.release_id == release_id
            if not live:
                check_candidate(candidate, self._comparable(seen), min_rows_ratio)
                self._refuse_while_deleted(seen, release_id)
            # After the pointer was read: a clean-up that takes the release away from here on moves it.
            self._send_up(directory, candidate, in_doubt=not lost)
            if live and seen is not None:
                return self._moves.latest(seen).line
            line = moved(candidate, _live_id(seen), "publish", (actor, reason), self._now_ms())
            move = self._moves.advance(seen, line, None if seen is None else seen.pointer.move)
            if move is not None:
                return move.line
        raise too_many_races()

    def rollback(
        self,
        *,
        actor: str,
        reason: str,
        expected_current: Expected = ...,
        registry_hash: str | None = None,
    ) -> ReleasePublished:
        """See `Releases`. Looks at the sizes of the predecessor's objects only: its bytes were checked when
        it was published, and every server checks them again.
        """
        for _ in range(_RACES):
            seen = self._expect(expected_current)
            if seen is None:
                raise no_predecessor()
            before = self._moves.way_back(seen)
            if before is None:
                raise no_predecessor()
            self._refuse_while_deleted(seen, before.line.release_id)
            candidate = self._remote_manifest(before.line.release_id)
            checks.policy_allows(candidate, self._version_policy)
            check_sizes(self._objects, f"{RELEASES}/{candidate.release_id}", candidate)
            if registry_hash is not None:
                checks.registry(candidate.registry_hash, registry_hash)
            line = moved(candidate, _live_id(seen), "rollback", (actor, reason), self._now_ms())
            move = self._moves.advance(seen, line, before.back_to)
            if move is not None:
                return move.line
        raise too_many_races()

    def retain(self, count: int) -> Ids:
        """See `Releases`. What is to go stands in the pointer first, so nobody makes it live meanwhile."""
        sweep_staged(self.root, self._now_ms())
        local: Ids = []
        for _ in range(_RACES):
            seen = self._moves.read()
            local += self._copies.keep_newest(count, needed=self._needed(seen))
            if seen is None:
                return local
            needed = self._needed(seen)
            older_ms = self._now_ms() - int(self._places.grace_seconds * 1000)
            doomed, abandoned = surplus(self._objects, count, needed, older_ms)
            everything = sorted({*doomed, *abandoned, *seen.pointer.deleting} - needed)
            if not everything or delete_releases(self._objects, self._moves, seen, everything):
                return sorted({*doomed, *local})
        raise too_many_races()

    def discard(self, release_ids: Ids) -> Ids:
        """See `Releases`. From the store goes what was sent up and never made live."""
        for _ in range(_RACES):
            seen = self._moves.read()
            sent = set() if seen is None else set(finished(self._objects))
            stay = {move.line.release_id for move in self._moves.trail(seen)}
            doomed = sorted(({*self._copies.ids()} | sent) & {*release_ids} - stay)
            there = [one for one in doomed if one in sent]
            if seen is None or not there or delete_releases(self._objects, self._moves, seen, there):
                return self._copies.drop(doomed)
        raise too_many_races()

    def audit(self) -> Moves:
        """See `Releases`."""
        return [move.line for move in self._moves.trail(self._moves.read())]

    def last_move(self) -> int:
        """Number of the move that CURRENT names, 0 when nothing was ever published: one object is read."""
        seen = self._moves.read()
        return 0 if seen is None else seen.pointer.move

    def write_trail(self, path: Path) -> None:
        """Put the trail into a file, a line a move, oldest first: for whoever reads it as a journal."""
        lines = [line.model_dump_json().encode() + b"\n" for line in self.audit()]
        write_atomic(path, b"".join(lines))

    def _expect(self, expected: Expected) -> Seen | None:
        seen = self._moves.read()
        check_expected(_live_id(seen), expected)
        return seen

    def _comparable(self, seen: Seen | None) -> ReleaseManifest | None:
        try:
            return None if seen is None else self.manifest(seen.pointer.release_id)
        except StoreRefused:  # it was not looked at: nobody knows that it is damaged
            raise
        except Refused:
            return None

    def _remote_manifest(self, release_id: str) -> ReleaseManifest:
        with staged(self.root) as scratch:
            directory = scratch / release_id
            remote_manifest(self._objects, f"{RELEASES}/{release_id}", ReleaseManifest, directory)
            return release_manifest(directory)

    def _refuse_while_deleted(self, seen: Seen | None, release_id: str) -> None:
        if seen is not None and release_id in seen.pointer.deleting:
            raise RetryableError(
                f"{release_id} is being deleted: publish it again when the clean-up is through"
            )

    def _send_up(self, directory: Path, candidate: ReleaseManifest, *, in_doubt: bool) -> None:
        """Tower, then release. Somebody who publishes what is in the store may do so to mend it: then the
        bytes there are compared, the tower's too. An hourly release is new, and nothing is read back.
        """
        prefix = f"{RELEASES}/{candidate.release_id}"
        read_back = in_doubt and is_finished(self._objects, prefix)
        self._towers.send(candidate.tower_version, read_back=read_back)
        upload(self._objects, prefix, directory, candidate, read_back=read_back)

    def _bound_copies(self, fetched: str) -> None:
        """A release that was built here and never uploaded is no copy: it stays."""
        needed = {fetched} | self._needed(self._moves.read())
        self._copies.keep_latest(self._places.cached_releases, among=finished(self._objects), needed=needed)

    def _needed(self, seen: Seen | None) -> set[str]:
        """The live release and the one that a rollback goes back to."""
        if seen is None:
            return set()
        before = self._moves.way_back(seen)
        return {seen.pointer.release_id} | ({before.line.release_id} if before else set())


def _live_id(seen: Seen | None) -> str | None:
    return None if seen is None else seen.pointer.release_id
