"""Ends a process that has work and does none, so that whoever supervises it can start another."""

import logging
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)

EXIT_STUCK = 70


def end_process() -> None:
    """Leave at once: whatever hangs may hold any lock, so nothing is tidied up."""
    os._exit(EXIT_STUCK)


class Watchdog:
    """Calls `on_stuck` when `beat` was not called for `limit_seconds`. A context manager.

    The watched loop beats when it makes progress and when there is nothing to do; a loop that hangs, or
    turns without getting anywhere while messages wait, does not beat.
    """

    def __init__(
        self,
        limit_seconds: float,
        clock: Callable[[], float],
        on_stuck: Callable[[], None] = end_process,
    ) -> None:
        self._limit_seconds, self._clock, self._on_stuck = limit_seconds, clock, on_stuck
        self._beaten = clock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """There was progress, or there is nothing to do."""
        self._beaten = self._clock()

    def overdue(self) -> bool:
        """Whether the last beat is too long ago."""
        return self._clock() - self._beaten > self._limit_seconds

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._limit_seconds / 4)):
            if self.overdue():
                log.critical("no progress for %.0f s while there is work: ending", self._limit_seconds)
                self._on_stuck()
                return

    def __enter__(self) -> Self:
        self._beaten = self._clock()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
