"""The releases that a leaf holds, by id: the current one and the one before, each as long as it is leased.

A root may still ask for the old release while others load the new one, so a swap here takes nothing away:
the old one is freed when a newer one has taken its place as the previous one and its last lease has ended.
A third stays while it is still asked for: a root that waits for a slower leaf may be two releases behind.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from index.object_store import StoreRefused
from schemas.errors import Refused, RetryableError

from .clock import Clock
from .inventory import Inventory
from .poll import Poll
from .release_watcher import RETRY_SECONDS, wait_after_refusal


class ShardRelease(Protocol):
    """One shard of one release, ready to be searched."""

    @property
    def release_id(self) -> str:
        """Which release."""
        ...

    @property
    def tower_version(self) -> str:
        """The version of the query tower that may be asked with."""
        ...

    @property
    def newest_ingest_ms(self) -> int:
        """Newest event in the release's snapshots."""
        ...

    def __len__(self) -> int:
        """Pins of the shard."""
        ...

    def inventory(self) -> Inventory:
        """One request's view."""
        ...

    def close(self) -> None:
        """Let go of the memory."""
        ...


class NotHeld(Refused):
    """The leaf does not have the release that it was asked for."""

    def __init__(self, release_id: str, held: tuple[str, ...]) -> None:
        self.held = held
        super().__init__(
            "release_not_held",
            expected=f"release {release_id[:120]}",
            came=f"a leaf that holds {', '.join(held) or 'none'}",
            fix="Ask for one that it holds, or wait until it has loaded what CURRENT names.",
        )


ASKED_SECONDS = 5.0
"""A release older than the previous one stays so long after it was asked for, unless another one does."""


@dataclass
class _Held:
    release: ShardRelease
    leases: int = 0
    asked_at_seconds: float = float("-inf")


class HeldReleases:
    """Two releases that can be asked for (three, see above), and older ones that somebody still reads."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._seconds = seconds
        self._held: dict[str, _Held] = {}
        """Newest last."""
        self._leaving: list[_Held] = []

    def ids(self) -> tuple[str, ...]:
        """What can be asked for: the current release first, then the previous one."""
        with self._lock:
            return tuple(reversed(self._held))

    def rows(self) -> dict[str, int]:
        """Pins of each release that can be asked for."""
        with self._lock:
            return {name: len(held.release) for name, held in reversed(self._held.items())}

    def current(self) -> ShardRelease | None:
        """The newest one; for display only, as nothing keeps it from being freed."""
        with self._lock:
            return next(reversed(self._held.values())).release if self._held else None

    @property
    def open(self) -> int:
        """Releases in memory: those that can be asked for and those that a lease still holds."""
        with self._lock:
            return len(self._held) + len(self._leaving)

    @contextmanager
    def lease(self, release_id: str) -> Iterator[ShardRelease]:
        """The release of this id, in memory for the whole block. Raises NotHeld."""
        with self._lock:
            held = self._held.get(release_id)
            if held is not None:
                held.leases += 1
                held.asked_at_seconds = self._seconds()
        if held is None:
            raise NotHeld(release_id, self.ids())
        try:
            yield held.release
        finally:
            with self._lock:
                held.leases -= 1

    def add(self, release: ShardRelease) -> None:
        """Make `release` the current one; what was current is the previous one, anything older leaves."""
        with self._lock:
            again = self._held.pop(release.release_id, None)
            if again is not None:
                self._leaving.append(again)
            self._held[release.release_id] = _Held(release)
            self._retire()

    def _retire(self) -> None:
        while len(self._held) > 2:
            oldest = next(iter(self._held))
            asked = self._seconds() - self._held[oldest].asked_at_seconds
            if len(self._held) == 3 and asked < ASKED_SECONDS:
                return
            self._leaving.append(self._held.pop(oldest))

    def make_current(self, release_id: str) -> bool:
        """After a rollback: the previous release is the current one again. False when it is not held."""
        with self._lock:
            if release_id not in self._held:
                return False
            self._held[release_id] = self._held.pop(release_id)
            return True

    def free_unused(self) -> int:
        """Close what has left and has no lease; returns how many were closed. Long for a large release."""
        with self._lock:
            self._retire()
            unused = [held for held in self._leaving if not held.leases]
            self._leaving = [held for held in self._leaving if held.leases]
        for held in unused:
            held.release.close()
        return len(unused)

    def close(self) -> None:
        """Let go of everything, at the end of the process."""
        with self._lock:
            held = [*self._held.values(), *self._leaving]
            self._held.clear()
            self._leaving.clear()
        for one in held:
            one.release.close()


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
    one. Neither touches what is held.
    """

    def __init__(
        self,
        current: Callable[[], str | None],
        load: Callable[[str], ShardRelease],
        held: HeldReleases,
        clock: Clock,
        tell: Callable[[Attempt], None],
    ) -> None:
        self._current, self._load = current, load
        self._held, self._clock, self._tell = held, clock, tell
        self._settled: str | None = None
        self._retry = _Retry()
        self._refusal: tuple[str, str] | None = None
        """The release that was refused, and in which words: what was told once."""
        self._poll = Poll("leaf-watcher", self.check)
        self.loading: str | None = None
        """What is being loaded just now."""
        self.last: Attempt | None = None

    def check(self) -> Attempt | None:
        """Look at CURRENT once; returns what was tried, or None when there was nothing to do."""
        self._held.free_unused()
        try:
            wanted = self._current()
        except (Refused, RetryableError, OSError) as error:
            return self._refused("CURRENT", error, self._clock.seconds())
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

    def _refused(self, release_id: str, error: Exception, started: float) -> Attempt:
        refusal = error if isinstance(error, Refused) else _unexpected(error)
        attempt = Attempt(release_id, "refused", self._clock.now_ms(), self._since(started), refusal)
        if self._told_before(release_id, error):
            self.last = attempt
            return attempt
        return self._note(attempt)

    def _told_before(self, release_id: str, error: Exception) -> bool:
        """CURRENT that cannot be read, and a refusal in the same words, are told once, not at every look."""
        if release_id == "CURRENT":
            last = self.last
            return last is not None and last.refusal is not None and last.release_id == release_id
        if not _is_final(error):
            return False
        before, self._refusal = self._refusal, (release_id, str(error))
        return before == self._refusal

    def _note(self, attempt: Attempt) -> Attempt:
        self.last = attempt
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


def _unexpected(error: Exception) -> Refused:
    return Refused(
        "load_failed",
        expected="a release that loads",
        came=f"{type(error).__name__}: {error}"[:300],
        fix="What is held answers on and the load is tried again; look at the disk, and at memory.",
    )
