"""When the group's coordinator last confirmed that this worker is a member."""

from collections.abc import Callable

_SHARE = 0.5
"""Of the session timeout: after that long without contact the coordinator is asked before producing."""


class Contact:
    """Tells when the worker may have been replaced: half a session without word from its group.

    `clock` gives monotonic seconds, `session_seconds` is the session timeout of the group.
    """

    def __init__(self, clock: Callable[[], float], session_seconds: float) -> None:
        self._clock, self._seconds = clock, session_seconds * _SHARE
        self._last = clock()

    def turn(self) -> None:
        """Note that a turn of the worker begins. A worker that was away before the turn still has to ask."""
        if not self.away():
            self._last = self._clock()

    def confirm(self, is_member: Callable[[], bool]) -> bool:
        """Whether the worker is known to be a member; `is_member` asks the coordinator, where it has to be.

        The answer counts from the moment of the question. When the question itself took half a session, the
        coordinator is asked again.
        """
        while self.away():
            asked_at = self._clock()
            if not is_member():
                return False
            self._last = asked_at
        return True

    def unknown(self) -> None:
        """Note that partitions were assigned: the coordinator is asked before anything is produced."""
        self._last = float("-inf")

    def away(self) -> bool:
        """Whether the coordinator has to be asked."""
        return self._clock() - self._last > self._seconds
