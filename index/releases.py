"""The release store: finished releases, the one pointer that names the live one, and who moved it when.

`root/<release_id>/` never changes once it is there; `root/CURRENT` is replaced whole; `root/audit.jsonl`
gets its line before the pointer moves, and a line whose move never happened (a crash in between) is
recognised and left out by `audit`. `root/audit.sha256` has a digest for each line, so a changed one is seen.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from schemas.artefacts import append_durably, write_atomic
from schemas.errors import Refused
from schemas.file_locks import locked
from schemas.logs import ReleasePublished
from schemas.manifests import ReleaseManifest
from schemas.tiers import VersionPolicy

from . import checks
from .audit_digests import append_digest, check_digests, complete_digests
from .contents import read_release, release_manifest
from .local_copies import LocalCopies, sweep_staged
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

CURRENT = "CURRENT"
AUDIT = "audit.jsonl"
_LOCK = ".lock"


def _bad_current(came: str) -> Refused:
    fix = f"Write the id of the last good move in {AUDIT} into {CURRENT}."
    return Refused("bad_current", f"the id of an audited release in {CURRENT}", came, fix)


class ReleaseStore:
    """Releases under `root`. Any number of processes may publish; they take turns by a file lock."""

    def __init__(
        self,
        root: Path,
        now_ms: Callable[[], int] = wall_clock_ms,
        version_policy: VersionPolicy = "enforce",
    ) -> None:
        self.root = root
        self._now_ms = now_ms
        # A release of mixed versions goes live only where that is tolerated.
        self._version_policy = version_policy

    def list(self) -> Ids:
        """Ids of the finished releases, oldest hour first."""
        return sorted(LocalCopies(self.root).ids())

    def directory(self, release_id: str) -> Path:
        """Where a release lies, or would lie. Raises Refused for what cannot be an id."""
        return self.root / check_release_id(release_id)

    def fetch(self, release_id: str) -> Path:
        """See `Releases`: on this machine it is where it is."""
        return self.directory(release_id)

    def fetch_tower(self, version: str) -> None:
        """See `Releases`: on this machine it is where it is."""

    def manifest(self, release_id: str) -> ReleaseManifest:
        """The manifest alone; the release's files are not looked at. Raises Refused."""
        return release_manifest(self.directory(release_id))

    def current(self) -> str | None:
        """The live release's id. Raises Refused when CURRENT holds something else."""
        release_id = self.pointer()
        # Ids end in hexadecimal digits: a damaged one is another id, but of a release that is not here.
        if release_id is not None and not (self.root / release_id).is_dir():
            raise _bad_current(repr(release_id))
        return release_id

    def pointer(self) -> str | None:
        """The id in CURRENT, whether there is such a release or not.

        Raises Refused for what is no id, OSError where it cannot be read: nobody knows then what it holds.
        """
        try:
            text = (self.root / CURRENT).read_bytes().removesuffix(b"\n")
        except FileNotFoundError:
            return None
        except IsADirectoryError as error:
            raise _bad_current(str(error)) from error
        if not is_release_id(text.decode("ascii", "replace")):
            raise _bad_current(repr(text[:80]))
        return text.decode("ascii")

    def last_seen(self) -> str | None:
        """See `Releases`. The pointer is a file here, so there is nothing to wait for."""
        try:
            return self.current()
        except (Refused, OSError):
            return None

    def comparable_live(self) -> ReleaseManifest | None:
        """The live release's manifest, to measure a candidate by. None when there is none or it is damaged:
        a damaged one may be replaced by any.
        """
        current = self.current()
        try:
            return None if current is None else self.manifest(current)
        except Refused:
            return None

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
        candidate = read_release(self.directory(release_id), self._version_policy).manifest
        if registry_hash is not None:
            checks.registry(candidate.registry_hash, registry_hash)
        with locked(self.root / _LOCK):
            current = self._expect(expected_current)
            # Once more, now that nobody can delete it: a clean-up may have been quicker than the checks.
            release_manifest(self.directory(release_id))
            if current == release_id and (moves := self.audit()):
                return moves[-1]
            live = self.comparable_live()
            check_candidate(candidate, live, min_rows_ratio)
            return self._move(moved(candidate, current, "publish", (actor, reason), self._now_ms()))

    def rollback(
        self,
        *,
        actor: str,
        reason: str,
        expected_current: Expected = ...,
        registry_hash: str | None = None,
    ) -> ReleasePublished:
        """Make the live release's predecessor live again; repeated, it goes further back.

        With `registry_hash` only to a release of that registry. Raises Refused (`no_predecessor`,
        `current_moved`, `registry_mismatch`, or what is wrong with the predecessor).
        """
        with locked(self.root / _LOCK):
            current = self._expect(expected_current)
            self._check_trail_leads_to(current)
            trail = self._trail()
            if len(trail) < 2:
                raise no_predecessor()
            candidate = read_release(self.directory(trail[-2]), self._version_policy).manifest
            if registry_hash is not None:
                checks.registry(candidate.registry_hash, registry_hash)
            return self._move(moved(candidate, current, "rollback", (actor, reason), self._now_ms()))

    def retain(self, count: int) -> Ids:
        """Delete all but the `count` newest releases; returns what was deleted.

        The live release and its predecessor stay in any case. What others are still writing is not
        touched; a release that a server holds open goes when the server lets go of it.
        """
        with locked(self.root / _LOCK):
            needed = {name for name in (*self._trail()[-2:], self.current()) if name is not None}
            deleted = LocalCopies(self.root).keep_newest(count, needed=needed)
            sweep_staged(self.root, self._now_ms())
        return deleted

    def discard(self, release_ids: Ids) -> Ids:
        """Delete those of these releases that were never live; returns what was deleted."""
        with locked(self.root / _LOCK):
            stay = {line.release_id for line in self.audit()} | {self.current()}
            here = set(self.list())
            doomed = [name for name in release_ids if name in here and name not in stay]
            return LocalCopies(self.root).drop(doomed)

    def audit(self) -> Moves:
        """Every move of CURRENT, in order."""
        lines = self._lines()
        successors = [line.previous_release_id for line in lines[1:]] + [self.current()]
        return [line for line, then in zip(lines, successors, strict=False) if line.release_id == then]

    def _trail(self) -> Ids:
        """The live release and, before it, those that a rollback goes back through."""
        trail: Ids = []
        for line in self.audit():
            if line.action == "rollback":
                trail = trail[:-1]
            else:
                trail.append(line.release_id)
        return trail

    def _check_trail_leads_to(self, current: str | None) -> None:
        """CURRENT is what the last move made it, or, after a crash in that move, what it was before."""
        lines = self._lines()
        if lines and current not in (lines[-1].release_id, lines[-1].previous_release_id):
            raise _bad_current(str(current))

    def _expect(self, expected: Expected) -> str | None:
        current = self.current()
        check_expected(current, expected)
        return current

    def _move(self, line: ReleasePublished) -> ReleasePublished:
        text = line.model_dump_json().encode()
        complete_digests(self.root / AUDIT)
        append_durably(self.root / AUDIT, text)
        append_digest(self.root / AUDIT, text)
        write_atomic(self.root / CURRENT, line.release_id.encode("ascii") + b"\n")
        return line

    def _lines(self) -> Moves:
        while True:
            text = self._audit_text()
            try:
                return self._checked_lines(text)
            except Refused:
                # NOTE: readers take no lock. What looks damaged may be a move that is being made.
                if self._audit_text() == text:
                    raise

    def _audit_text(self) -> bytes:
        try:
            return (self.root / AUDIT).read_bytes()
        except FileNotFoundError:
            return b""

    def _checked_lines(self, text: bytes) -> Moves:
        # What stands after the last line break was cut off by a crash: its move never happened.
        complete = text.split(b"\n")[:-1]
        try:
            lines = [ReleasePublished.model_validate_json(line) for line in complete]
        except ValidationError as error:
            fix = f"Restore {AUDIT} from a backup, or move it away to start a new trail."
            raise Refused("bad_audit", f"one move per line of {AUDIT}", str(error)[:300], fix) from error
        happened = bool(lines) and lines[-1].release_id == self.current()
        if (self.root / AUDIT).exists():
            check_digests(self.root / AUDIT, complete, unfinished=0 if happened else 1)
        return lines
