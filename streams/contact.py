"""When a worker was last known to be of its group."""

from collections.abc import Callable

_SHARE = 0.5
"""Of the session timeout: after that long without contact the coordinator is asked before producing."""


class Contact:
    """Away is who may have been replaced, because nothing was heard of the group for half a session."""

    def __init__(self, clock: Callable[[], float], session_seconds: float) -> None:
        self._clock, self._seconds = clock, session_seconds * _SHARE
        self._last = clock()

    def turn(self) -> None:
        """A turn begins. Who was away before it still has to ask."""
        if not self.away():
            self._last = self._clock()

    def asked(self, at: float) -> None:
        """The coordinator was asked at that time, and said yes."""
        self._last = at

    def unknown(self) -> None:
        """Partitions came: ask before anything is produced."""
        self._last = float("-inf")

    def away(self) -> bool:
        """Whether the coordinator has to be asked."""
        return self._clock() - self._last > self._seconds
