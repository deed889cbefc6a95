"""The releases that a leaf holds, by id: the current one and the one before, each as long as it is leased.

A root may still ask for the old release while others load the new one, so a swap here takes nothing away:
the old one is freed when a newer one has taken its place as the previous one and its last lease has ended.
A third stays while it is still asked for: a root that waits for a slower leaf may be many releases behind.
The previous one then makes room for the next one to be loaded, unless it is asked for too.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from schemas.errors import Refused

from .inventory import Inventory


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
"""A release counts as asked for so long after a root asked for it."""


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
        """Let go of all but the newest, the one before, and of the others the one that was asked for last."""
        older = list(reversed(self._held))[2:]
        served = max(older, key=lambda name: self._held[name].asked_at_seconds, default=None)
        for name in older:
            if name != served or not self._asked_for(name):
                self._leaving.append(self._held.pop(name))

    def _asked_for(self, release_id: str) -> bool:
        return self._seconds() - self._held[release_id].asked_at_seconds < ASKED_SECONDS

    def make_room(self) -> None:
        """Before another release is loaded: so that with it there are three in memory and not four.

        Where a third stays because it is asked for, the previous one leaves, unless that is asked for too.
        """
        with self._lock:
            self._retire()
            newest_first = list(reversed(self._held))
            if len(newest_first) > 2 and not self._asked_for(newest_first[1]):
                self._leaving.append(self._held.pop(newest_first[1]))
        self.free_unused()

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
