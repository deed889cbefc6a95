"""The thread that reads for the delta segment, and what the rest of a server asks of it."""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from schemas.errors import Refused, RetryableError

from .clock import Clock, seconds_since
from .delta_reader import Arrival, Became, DeltaPolicy, DeltaReader, Followed, FreshFeed
from .delta_telemetry import DeltaFigures
from .poll import lower_priority

log = logging.getLogger(__name__)

_READ_SECONDS = 0.1
_ERROR_WAIT_SECONDS = 1.0


class DeltaFollower:
    """Reads on from a thread of its own, at the lowest priority: requests come first.

    Whatever goes wrong there, the server answers with what it has; `status` and metrics say what it lacks.
    """

    def __init__(
        self,
        connect: Callable[[], FreshFeed],
        policy: DeltaPolicy,
        clock: Clock,
        show: Callable[[DeltaFigures], None],
        became: Became,
    ) -> None:
        """`connect` must not wait for the broker; it is called once, by the thread that reads."""
        self._policy = policy
        self._clock = clock
        self._show = show
        self._connect = connect
        self._became = became
        self._reader: DeltaReader | None = None
        self._arriving: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._pending: Arrival | None = None
        self._swapped_behind = 0
        self._error = ""
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def prepare(self, release: Followed) -> bool:
        """Catch a release up that is about to be served; returns whether that was done in time.

        It waits `catch_up_seconds` at most. Without a thread (`start`) it takes the turns itself.
        """
        arrival = Arrival(release, release.shelf.base())
        self._arriving.put(arrival)
        if self._thread is not None:
            arrival.caught_up.wait(self._policy.catch_up_seconds)
        else:
            until = self._clock.seconds() + self._policy.catch_up_seconds
            while not arrival.caught_up.is_set() and self._clock.seconds() < until:
                self.turn()
        if not arrival.caught_up.is_set():
            self._swapped_behind += 1
            log.warning(
                "release %s is served before its delta segment has caught up (%s); it goes on catching up",
                release.manifest.release_id,
                self._error or f"waited {self._policy.catch_up_seconds:g} s",
            )
        return arrival.caught_up.is_set()

    def turn(self) -> None:
        """One turn of the thread: adopt what arrived, read, fold, refresh, report. Raises nothing."""
        try:
            if self._reader is None:
                self._reader = DeltaReader(self._connect(), self._policy, self._clock, self._became)
            while not self._arriving.empty():
                self._pending = self._arriving.get()
            if self._pending is not None:
                self._reader.adopt(self._pending)
                self._pending = None
            self._reader.turn(_READ_SECONDS)
            self._error = ""
        except (RetryableError, Refused) as error:
            self._complain(str(error))
        except Exception as error:
            # NOTE: whatever breaks here, the server must go on answering; so it is said and tried again.
            self._complain(f"{type(error).__name__}: {error}")
        self._show(self._figures())

    def _complain(self, what: str) -> None:
        """Say it once, not at every turn, and give it time to pass."""
        if what != self._error:
            log.warning("delta segment: %s", what)
        self._error = what[:300]
        self._closing.wait(_ERROR_WAIT_SECONDS)

    def _figures(self) -> DeltaFigures:
        if self._reader is None:
            return DeltaFigures(0, 0, self._policy.max_vectors, 0, 0, self._clock.now_ms())
        state = self._reader.state
        return DeltaFigures(
            rows=state.counts.overlay,
            superseded=state.counts.superseded,
            capacity_rows=self._policy.max_vectors,
            lag_events=state.lag_events,
            newest_ingest_ms=state.newest_ingest_ms,
            caught_up_at_ms=state.caught_up_at_ms,
            patched=state.counts.patched,
            waiting=state.counts.waiting,
            refused=state.counts.refused,
            unreadable=state.unreadable,
            gap_events=state.gap_events,
        )

    def status(self) -> dict[str, Any]:
        """Everything that is known about the delta segment, as plain data."""
        if self._reader is None:
            return {"release_id": None, "error": self._error}
        found: dict[str, Any] = asdict(self._reader.state)
        counts: dict[str, int] = found.pop("counts")
        lag = seconds_since(found["caught_up_at_ms"], self._clock.now_ms())
        more = {"max_vectors": self._policy.max_vectors, "swapped_behind": self._swapped_behind}
        return found | counts | more | {"lag_seconds": lag, "error": self._error}

    def start(self) -> None:
        """Begin to read."""
        self._thread = threading.Thread(target=self._follow, name="delta-follower", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop and close the connections."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        if self._reader is not None:
            self._reader.close()

    def _follow(self) -> None:
        lower_priority()
        while not self._closing.is_set():
            self.turn()
            if self._reader is None or not self._reader.busy:
                self._closing.wait(_READ_SECONDS)
