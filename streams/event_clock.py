"""Event time of a set of topics that are cut up alike, partition by partition.

The time of a partition number is the lowest of its topics' newest events, less the disorder that is
allowed inside a topic: when a topic stands still, so does time, and no window closes over events that
are still to come. Two rules keep that from being for ever:

- a topic that has brought nothing to a partition for `idle_ms` of wall clock is passed over there;
- when all are silent, time goes on at the pace of the wall clock, from the newest event or from where it
  stood when the silence began, whichever is later: also when each process is ended before a window is over.

A pause of this process (it was stopped, or the machine slept) is no silence of the topics.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .positions import Partition

_PAUSE_MS = 10_000
"""Ticks come about once a second; a longer gap means that this process did not run."""


@dataclass(frozen=True)
class ClockRules:
    """`lateness_ms`: disorder allowed inside one partition of one topic. `idle_ms`: 0 waits for ever."""

    lateness_ms: int
    idle_ms: int


class EventClock:
    """Watermarks by partition number. They only grow."""

    def __init__(
        self,
        topics: Iterable[str],
        rules: ClockRules,
        newest: Mapping[Partition, int],
        watermarks: Mapping[int, int],
    ) -> None:
        """`newest`, `watermarks`: as stored; event time by (topic, partition), and by partition number."""
        self._topics = tuple(topics)
        self._rules = rules
        self.newest = dict(newest)
        self._watermarks = dict(watermarks)
        self._heard: dict[Partition, int] = {}
        self._known: dict[int, int] = {}
        self._silent_from: dict[int, int] = {}
        self._now_ms: int | None = None

    def watch(self, number: int) -> None:
        """Let time pass in a partition number, also when nothing comes."""
        if self._now_ms is not None:
            self._known.setdefault(number, self._now_ms)

    def forget_silence(self, number: int) -> None:
        """What was silent while nobody listened here was not silent."""
        self._known.pop(number, None)
        self._silent_from.pop(number, None)
        for topic in self._topics:
            self._heard.pop((topic, number), None)

    def saw(self, partition: Partition, time_ms: int) -> None:
        """An event of this time came."""
        self.newest[partition] = max(self.newest.get(partition, 0), time_ms)
        if self._now_ms is not None:
            self._heard[partition] = self._now_ms
        self._silent_from.pop(partition[1], None)
        self.watch(partition[1])

    def tick(self, now_ms: int) -> None:
        """Wall clock, milliseconds since the epoch."""
        if self._now_ms is not None and (gap := now_ms - self._now_ms) > _PAUSE_MS:
            self._heard = {one: at + gap for one, at in self._heard.items()}
            self._known = {one: at + gap for one, at in self._known.items()}
        self._now_ms = now_ms if self._now_ms is None else max(self._now_ms, now_ms)

    def watermark(self, number: int) -> int:
        """Nothing earlier is expected in this partition number; 0 while that cannot be said."""
        passed = max(self._watermarks.get(number, 0), self._passed(number))
        self._watermarks[number] = passed
        return passed

    def _passed(self, number: int) -> int:
        partitions = [(topic, number) for topic in self._topics]
        heeded = [one for one in partitions if self._silence_ms(one) < 0]
        if heeded:
            self._silent_from.pop(number, None)
            return min(self.newest.get(one, 0) for one in heeded) - self._rules.lateness_ms
        latest = max((self.newest.get(one, 0) for one in partitions), default=0)
        if not latest:
            return 0
        begun = self._silent_from.setdefault(number, self._watermarks.get(number, 0))
        silence_ms = min(self._silence_ms(one) for one in partitions)
        return max(latest - self._rules.lateness_ms, begun) + silence_ms

    def _silence_ms(self, partition: Partition) -> int:
        """How long ago a topic became silent here; negative while it is not."""
        since = self._heard.get(partition, self._known.get(partition[1]))
        if self._now_ms is None or since is None or not self._rules.idle_ms:
            return -1
        return self._now_ms - since - self._rules.idle_ms
