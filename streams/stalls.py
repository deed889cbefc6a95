"""When a process that reads Kafka has stalled: there is something to read and nothing moves.

Consumers have been seen to stop without a word: after a rebalance that leaves partitions unfetched, after
an exception in the wrong place, in a commit that waits for ever. A process that ends is started again; one
that hangs is not.
"""

from collections.abc import Mapping

from .positions import Partition
from .step_source import PartitionStanding


class StallDetector:
    """Watches a group's committed offsets. A refused question to the broker is no sign: call `restart`."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._moved_at: dict[Partition, tuple[int | None, float]] = {}
        self._group_moved_at = 0.0

    def restart(self) -> None:
        """Forget what was seen: nothing could move while the broker was away."""
        self._moved_at = {}

    def stalled(
        self,
        standings: Mapping[Partition, PartitionStanding],
        owned: frozenset[Partition],
        now_seconds: float,
    ) -> str | None:
        """Why the process has to end, or None.

        A partition of ours with a lag has to move within the limit; and of a group with a lag some
        partition has to, whoever owns it: a group that hangs while it forms owns none.
        """
        waiting = [partition for partition, standing in standings.items() if lag_of(standing) > 0]
        for partition, standing in standings.items():
            before = self._moved_at.get(partition)
            moved = before is None or before[0] != standing.committed
            if moved or not waiting:
                self._group_moved_at = now_seconds
            if moved or partition not in waiting:
                self._moved_at[partition] = (standing.committed, now_seconds)
        for partition in waiting:
            if partition in owned and now_seconds - self._moved_at[partition][1] > self._limit_seconds:
                return f"{partition[0]}[{partition[1]}] has messages and stands still"
        if waiting and now_seconds - self._group_moved_at > self._limit_seconds:
            return f"the group has messages in {len(waiting)} partitions and none of them moves"
        return None


def lag_of(standing: PartitionStanding) -> int:
    """Messages of a partition that the group has not acknowledged and that are still there."""
    return max(0, standing.high - max(standing.low, standing.committed or 0))
