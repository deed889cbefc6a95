"""Follows CURRENT: loads a new release beside the old one, then swaps. The only place that swaps.

Load → check → warm → swap, in that order (`ReleaseLoader.load` does the first three and raises before the
fourth). A release that is refused leaves the old one serving, and is looked at again now and then: somebody
may put back what was damaged without moving CURRENT.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from index.handle import Handle
from index.heap import give_memory_back
from index.object_store import StoreRefused
from schemas.errors import Refused, RetryableError

from .clock import Clock
from .live_release import LiveRelease, Served
from .poll import Poll
from .swaps import Swap, SwapHistory, refused_swap, summarise
from .tier_facts import Before, TierFacts, tier_facts

RETRY_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Waits after failures that may pass (disk, memory)."""

REFUSED_SECONDS = 60.0
"""Wait after a refusal, while CURRENT stays. Only a person mends what was refused, so that a minute more is
little; sooner would be reading and hashing the same files for nothing."""

_LOAD_SHARE = 10
"""At most a tenth of the time goes into loads of what was refused before, however large it is."""


def wait_after_refusal(load_seconds: float) -> float:
    """Seconds until a refused release is tried again, after an attempt that took so long."""
    return max(REFUSED_SECONDS, _LOAD_SHARE * load_seconds)


class SwapTelemetry(Protocol):
    """What the watcher tells the metrics."""

    def served(self, release: LiveRelease, facts: Sequence[TierFacts]) -> None:
        """A release went live, with these tiers."""
        ...

    def refused(self, swap: Swap) -> None:
        """A release was refused."""
        ...

    def store_reachable(self, answered: bool) -> None:
        """Whether CURRENT could be read."""
        ...


@dataclass(frozen=True)
class Source:
    """Where releases come from. `last_seen` is what to begin with while `current` cannot be read."""

    current: Callable[[], str | None]
    load: Callable[[str], LiveRelease]
    last_seen: Callable[[], str | None] = lambda: None


class ReleaseWatcher:
    """Polls CURRENT from a thread of its own, at the lowest priority, so that requests come first."""

    def __init__(
        self,
        source: Source,
        handle: Handle[Served],
        *,
        history: SwapHistory,
        telemetry: SwapTelemetry,
        clock: Clock,
        retired: deque[Callable[[], None]],
        before: Callable[[int], Before] = Before,
    ) -> None:
        """`retired` is where the handle leaves the closers of old releases, for this thread to run.

        `before` adds to the time the versions and tiers as they are declared; it must not raise.
        """
        self._source = source
        self._handle = handle
        self._history = history
        self._telemetry = telemetry
        self._clock = clock
        self._retired = retired
        self._before = before
        self._facts: tuple[str | None, tuple[TierFacts, ...]] = (None, ())
        """Of which release, and its tiers: one tuple, so that nobody sees the one without the other."""
        self._settled: str | None = None
        """The CURRENT that needs nothing more: it is served."""
        self._failing: str | None = None
        """The CURRENT that failed or was refused, to be tried again at `_retry_at`."""
        self._failures = 0
        self._retry_at = 0.0
        self._refused: tuple[str, str] | None = None
        """The release that was refused, and in which words: what was told once."""
        self._told_of_current: set[str] = set()
        """What kept CURRENT from being read, of which kinds, since it was read last: each is told once."""
        self._served_id: str | None = None
        self._poll = Poll("release-watcher", self.check)

    def check(self) -> Swap | None:
        """Look at CURRENT once; returns what is to be told, or None when there is nothing."""
        if self._retired:
            while self._retired:
                self._retired.popleft()()
            give_memory_back()
        try:
            wanted = self._source.current()
        except (Refused, RetryableError, OSError) as error:
            self._telemetry.store_reachable(False)
            complaint = self._complain(error)
            # A server that starts while the store is away serves what it served last, if it has it.
            wanted = None if self._served_id else self._source.last_seen()
            if wanted is None:
                return complaint
        else:
            self._telemetry.store_reachable(True)
            self._told_of_current.clear()
        if wanted is None or wanted == self._settled:
            return None
        if wanted == self._served_id:
            self._settle(wanted)
            return None
        if wanted == self._failing and self._clock.seconds() < self._retry_at:
            return None
        return self._try(wanted)

    def _complain(self, error: Refused | RetryableError | OSError) -> Swap | None:
        """CURRENT cannot be read: say so once until it was read again, and again only for another reason.

        The reason is the error's kind and not its words, which may hold a time or a count of tries.
        """
        kind = error.code if isinstance(error, Refused) else type(error).__name__
        if kind in self._told_of_current:
            return None
        self._told_of_current.add(kind)
        refusal = error if isinstance(error, Refused) else _unexpected(error)
        return self._refuse("CURRENT", refusal, self._clock.seconds())

    def _try(self, release_id: str) -> Swap | None:
        """Load and swap. None when it was refused once more in the same words, which is told to nobody."""
        started = self._clock.seconds()
        self._settled = None  # CURRENT moved: should it move back, that is looked at anew
        try:
            release = self._source.load(release_id)
        except StoreRefused as refusal:  # no word about the release: it may be let in later
            self._back_off(release_id)
            return self._refuse(release_id, refusal, started)
        except Refused as refusal:
            self._failing, self._failures = release_id, 0
            self._retry_at = self._clock.seconds() + wait_after_refusal(self._clock.seconds() - started)
            told = self._refused == (release_id, str(refusal))
            self._refused = release_id, str(refusal)
            return None if told else self._refuse(release_id, refusal, started)
        except Exception as error:
            # NOTE: the one place that catches everything. Whatever a new release does while it loads,
            # the old one must go on serving; the attempt is recorded, counted and repeated later.
            self._back_off(release_id)
            return self._refuse(release_id, _unexpected(error), started)
        self._settle(release_id)
        return self._serve(release, started)

    def _settle(self, release_id: str) -> None:
        self._settled, self._failing, self._refused = release_id, None, None

    def _back_off(self, release_id: str) -> None:
        self._failures = self._failures + 1 if self._failing == release_id else 1
        self._failing = release_id
        self._retry_at = self._clock.seconds() + RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS)) - 1]

    def _serve(self, release: LiveRelease, started: float) -> Swap:
        # The old one's rows are compared with before they may be let go of.
        with self._handle.lease() as old:
            self._handle.swap(release)
            now_ms = self._clock.now_ms()
            held = old.local.base() if isinstance(old, LiveRelease) else None
            tiers = [one.name for one in self._facts[1]]
            facts = tier_facts(release, replace(self._before(now_ms), held=held, held_tiers=tiers))
        swap = Swap(
            release_id=release.release_id,
            previous_release_id=self._served_id,
            result="served",
            at_ms=now_ms,
            load_seconds=self._clock.seconds() - started,
        )
        swap = replace(swap, freshness=summarise(np.concatenate([one.servable_seconds for one in facts])))
        self._served_id = release.release_id
        self._facts = release.release_id, facts
        self._history.add(swap)
        self._telemetry.served(release, facts)
        return swap

    def _refuse(self, release_id: str, error: Refused, started: float) -> Swap:
        now_ms, seconds = self._clock.now_ms(), self._clock.seconds() - started
        swap = refused_swap(release_id, self._served_id, error, now_ms, seconds)
        self._history.add(swap)
        self._telemetry.refused(swap)
        return swap

    def facts_of(self, release: LiveRelease | None) -> tuple[TierFacts, ...]:
        """The tiers of `release`, if it is the one that was swapped in last; of any other none."""
        release_id, facts = self._facts
        return facts if release is not None and release.release_id == release_id else ()

    def start(self, poll_seconds: float) -> None:
        """Begin to follow CURRENT; the first look comes at once."""
        self._poll.start(poll_seconds)

    def close(self) -> None:
        """Stop; waits for a load in progress."""
        self._poll.close()


def _unexpected(error: Exception) -> Refused:
    return Refused(
        "load_failed",
        expected="a release that loads",
        came=f"{type(error).__name__}: {error}"[:300],
        fix="The old release serves on and the load is tried again; look at the disk, and at memory.",
    )
