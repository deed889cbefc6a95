"""When a process that reads Kafka has stalled: there is something to read and nothing moves.

Consumers have been seen to stop without a word: after a rebalance that leaves partitions unfetched, after
an exception in the wrong place, in a commit that waits for ever. A process that ends is started again; one
that hangs is not.
"""

from collections.abc import Mapping

from .positions import Partition
from .step_source import Standing


class StallDetector:
    """Watches a group's committed offsets. A refused question to the broker is no sign: call `restart`."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._moved_at: dict[Partition, tuple[int | None, float]] = {}
        self._group_moved_at: float | None = None

    def restart(self) -> None:
        """Forget what was seen: nothing could move while the broker was away."""
        self._moved_at, self._group_moved_at = {}, None

    def stalled(
        self, standings: Mapping[Partition, Standing], owned: frozenset[Partition], now_seconds: float
    ) -> str | None:
        """Why the process has to end, or None.

        A partition of ours with a lag has to move within the limit; and of a group with a lag some
        partition has to, whoever owns it: a group that hangs while it forms owns none.
        """
        waiting = []
        for partition, standing in standings.items():
            before = self._moved_at.get(partition)
            lag = standing.high - (standing.committed if standing.committed is not None else standing.low)
            if before is None or before[0] != standing.committed:
                self._group_moved_at = now_seconds
            if before is None or before[0] != standing.committed or lag <= 0:
                self._moved_at[partition] = (standing.committed, now_seconds)
            if lag > 0:
                waiting.append(partition)
        if not waiting:
            self._group_moved_at = now_seconds
        for partition in waiting:
            if partition in owned and now_seconds - self._moved_at[partition][1] > self._limit_seconds:
                return f"{partition[0]}[{partition[1]}] has messages and stands still"
        if waiting and now_seconds - (self._group_moved_at or now_seconds) > self._limit_seconds:
            return f"the group has messages in {len(waiting)} partitions and none of them moves"
        return None
