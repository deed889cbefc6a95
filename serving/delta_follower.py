"""The thread that reads for the delta segment, and what the rest of a server asks of it."""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import count
from typing import Any

from schemas.errors import Refused, RetryableError

from .clock import Clock, seconds_since
from .delta_arrival import Arrival, Followed
from .delta_reader import Became, DeltaPolicy, DeltaReader, DeltaState, FreshFeed
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
        self._pending: list[Arrival] = []
        """Served, or about to be, and not followed yet: the broker did not answer. In the order they came."""
        self._numbers = count(1)
        self._swapped_behind = 0
        self._error = ""
        self._began_at_ms = clock.now_ms()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def prepare(self, release: Followed) -> bool:
        """Catch a release up that is about to be served; returns whether that was done in time.

        It waits `catch_up_seconds` at most. Without a thread (`start`) it takes the turns itself.
        """
        arrival = Arrival(release.manifest, release.shelf, next(self._numbers), self._clock.now_ms())
        release.shelf.base()  # made here and not by the thread that reads
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
        # Each for itself: what is followed already is read on while another one cannot be adopted.
        complaints = [_complaint(self._connected), *self._adopted(), _complaint(self._read_on)]
        self._say("; ".join(dict.fromkeys(filter(None, complaints))))
        self._show(self._figures())

    def _connected(self) -> None:
        if self._reader is None:
            reader = DeltaReader(self._connect(), self._policy, self._clock, self._became)
            reader.state.caught_up_at_ms = self._began_at_ms
            self._reader = reader

    def _adopted(self) -> list[str]:
        """Adopt what waits, in the order it came. What fails waits on; what was closed is dropped."""
        waiting = list(self._pending)
        while not self._arriving.empty():
            waiting.append(self._arriving.get())
        self._pending = waiting = [one for one in waiting if not one.shelf.closed]
        reader = self._reader
        if reader is None:
            return []
        complaints = {one.number: _complaint(partial(reader.adopt, one)) for one in waiting}
        self._pending = [one for one in waiting if complaints[one.number]]
        return list(complaints.values())

    def _read_on(self) -> None:
        if self._reader is not None:
            self._reader.turn(_READ_SECONDS)

    def _say(self, trouble: str) -> None:
        """Say it once, not at every turn, and give it time to pass."""
        before, self._error = self._error, trouble[:300]
        if self._error and self._error != before:
            log.warning("delta segment: %s", trouble)
        if self._error:
            self._closing.wait(_ERROR_WAIT_SECONDS)

    def _caught_up_at_ms(self) -> int:
        """A release that waits to be followed lacks everything since it came, whatever others have.

        Before there is a connection everything is lacking since this began.
        """
        read_ms = self._began_at_ms if self._reader is None else self._reader.state.caught_up_at_ms
        return min([read_ms, *(one.arrived_at_ms for one in self._pending)])

    def _figures(self) -> DeltaFigures:
        state = DeltaState() if self._reader is None else self._reader.state
        return DeltaFigures(
            rows=state.counts.overlay,
            superseded=state.counts.superseded,
            capacity_rows=self._policy.max_vectors,
            lag_events=state.lag_events,
            newest_ingest_ms=state.newest_ingest_ms,
            caught_up_at_ms=self._caught_up_at_ms(),
            patched=state.counts.patched,
            waiting=state.counts.waiting,
            refused=state.counts.refused,
            unreadable=state.unreadable,
            gap_events=state.gap_events,
        )

    def status(self) -> dict[str, Any]:
        """Everything that is known about the delta segment, as plain data."""
        waiting = [one.manifest.release_id for one in self._pending]
        found: dict[str, Any] = asdict(DeltaState() if self._reader is None else self._reader.state)
        found["caught_up_at_ms"] = self._caught_up_at_ms()
        counts: dict[str, int] = found.pop("counts")
        lag = seconds_since(found["caught_up_at_ms"], self._clock.now_ms())
        more = {"max_vectors": self._policy.max_vectors, "swapped_behind": self._swapped_behind}
        said = {"lag_seconds": lag, "waiting_releases": waiting, "error": self._error}
        return found | counts | more | said

    def start(self) -> None:
        """Begin to read."""
        self._show(self._figures())
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


def _complaint(step: Callable[[], None]) -> str:
    """What went wrong in a step; empty for nothing."""
    try:
        step()
    except (RetryableError, Refused) as error:
        return str(error) or type(error).__name__
    except Exception as error:
        # NOTE: whatever breaks here, the server must go on answering; so it is said and tried again.
        return f"{type(error).__name__}: {error}"
    return ""
