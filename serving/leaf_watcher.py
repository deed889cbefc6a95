"""Follows CURRENT for a leaf: loads each new release beside those that it holds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from index.object_store import StoreRefused
from schemas.errors import Refused, RetryableError

from .clock import Clock
from .leaf_releases import HeldReleases, ShardRelease
from .poll import Poll
from .release_watcher import RETRY_SECONDS, wait_after_refusal


@dataclass(frozen=True)
class Attempt:
    """One attempt to load a release."""

    release_id: str
    result: Literal["loaded", "refused"]
    at_ms: int
    load_seconds: float
    refusal: Refused | None = None


@dataclass
class _Retry:
    release_id: str | None = None
    failures: int = 0
    at_seconds: float = field(default=0.0)


class LeafWatcher:
    """Follows CURRENT from a thread of the lowest priority: loads beside what is held, then adds it.

    What failed is tried again, what was refused more rarely, and told again only when the refusal is another
    one. Neither touches what is held. A leaf that starts while CURRENT cannot be read begins with what was
    seen last, if that is on its disk.
    """

    def __init__(
        self,
        current: Callable[[], str | None],
        load: Callable[[str], ShardRelease],
        held: HeldReleases,
        clock: Clock,
        tell: Callable[[Attempt], None],
        last_seen: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._current, self._load, self._last_seen = current, load, last_seen
        self._held, self._clock, self._tell = held, clock, tell
        self._settled: str | None = None
        self._retry = _Retry()
        self._refusal: tuple[str, str] | None = None
        """The release that was refused, and in which words: what was told once."""
        self._poll = Poll("leaf-watcher", self.check)
        self.loading: str | None = None
        """What is being loaded just now."""
        self._last: Attempt | None = None
        self._unread: Attempt | None = None
        """That CURRENT cannot be read, while it cannot."""

    @property
    def last(self) -> Attempt | None:
        """The last attempt, as long as it says how things are: a refusal that was mended is not it."""
        return self._unread or self._last

    def check(self) -> Attempt | None:
        """Look at CURRENT once; returns what was tried, or None when there was nothing to do."""
        self._held.free_unused()
        try:
            wanted = self._current()
        except (Refused, RetryableError, OSError) as error:
            told = self._cannot_read(error)
            wanted = None if self._held.ids() else self._last_seen()
            if wanted is None:
                return told
        else:
            self._unread = None
        if wanted is None or wanted == self._settled:
            return None
        if self._held.make_current(wanted):
            self._settle(wanted)
            return None
        if wanted == self._retry.release_id and self._clock.seconds() < self._retry.at_seconds:
            return None
        return self._try(wanted)

    def _try(self, release_id: str) -> Attempt:
        started = self._clock.seconds()
        self.loading, self._settled = release_id, None
        self._held.make_room()
        try:
            release = self._load(release_id)
        except Exception as error:
            # NOTE: everything, as in the server's watcher: what is held must go on answering whatever a
            # new release does while it loads; the attempt is recorded, counted and repeated. What a store
            # that lets nobody in says is no word about the release.
            if _is_final(error):
                wait = wait_after_refusal(self._since(started))
                self._retry = _Retry(release_id, 0, self._clock.seconds() + wait)
                return self._refused(release_id, error, started)
            failures = self._retry.failures + 1 if self._retry.release_id == release_id else 1
            wait = RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1]
            self._retry = _Retry(release_id, failures, self._clock.seconds() + wait)
            return self._refused(release_id, error, started)
        finally:
            self.loading = None
        self._settle(release_id)
        self._held.add(release)
        return self._note(Attempt(release_id, "loaded", self._clock.now_ms(), self._since(started)))

    def _settle(self, release_id: str) -> None:
        self._settled, self._retry, self._refusal = release_id, _Retry(), None
        if self._last is not None and self._last.refusal is not None:
            self._last = None

    def _cannot_read(self, error: Exception) -> Attempt:
        """Told once, not at every look, until CURRENT was read."""
        attempt = Attempt("CURRENT", "refused", self._clock.now_ms(), 0.0, _refusal(error))
        if self._unread is None:
            self._tell(attempt)
        self._unread = attempt
        return attempt

    def _refused(self, release_id: str, error: Exception, started: float) -> Attempt:
        attempt = Attempt(release_id, "refused", self._clock.now_ms(), self._since(started), _refusal(error))
        if self._told_before(release_id, error):
            self._last = attempt
            return attempt
        return self._note(attempt)

    def _told_before(self, release_id: str, error: Exception) -> bool:
        """A refusal in the same words is told once, not at every attempt."""
        if not _is_final(error):
            return False
        before, self._refusal = self._refusal, (release_id, str(error))
        return before == self._refusal

    def _note(self, attempt: Attempt) -> Attempt:
        self._last = attempt
        self._tell(attempt)
        return attempt

    def _since(self, started: float) -> float:
        return self._clock.seconds() - started

    def start(self, poll_seconds: float) -> None:
        """Begin to follow CURRENT; the first look comes at once."""
        self._poll.start(poll_seconds)

    def close(self) -> None:
        """Stop; waits for a load in progress."""
        self._poll.close()


def _is_final(error: Exception) -> bool:
    """Whether it is a word about the release, and not about the store or this machine."""
    return isinstance(error, Refused) and not isinstance(error, StoreRefused)


def _refusal(error: Exception) -> Refused:
    """`error` in the words of a refusal."""
    if isinstance(error, Refused):
        return error
    return Refused(
        "load_failed",
        expected="a release that loads",
        came=f"{type(error).__name__}: {error}"[:300],
        fix="What is held answers on and the load is tried again; look at the disk, and at memory.",
    )
