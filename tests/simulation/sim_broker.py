"""A Kafka cluster in memory: topics, groups, clients' sends on their way, outages, compaction.

What it lets happen is what Kafka may do: sends arrive late, and after the death of their sender when
they were on the wire; acknowledgements get lost and are asked for again, which the idempotent producer
does without doubling anything; messages expire in the queue of a client; a member that is not heard of
loses its partitions without knowing. What is on the wire arrives within `wire_seconds`: that bound is
an assumption, Kafka gives none.
"""

from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException

from .scheduler import Process, Scheduler
from .sim_group import SimGroup
from .sim_log import SimTopics

ASK_SECONDS = 10.0
_EPOCH_MS = 1_500_000_000_000


@dataclass(frozen=True)
class Network:
    """Longest times that things take, in simulated seconds."""

    linger_seconds: float = 0.02
    wire_seconds: float = 0.1
    acknowledge_seconds: float = 0.1


class SimBroker:
    """The cluster; everything that happens on it is in the scheduler's trace."""

    def __init__(self, world: Scheduler, topics: SimTopics, network: Network) -> None:
        self.world, self.topics, self.network = world, topics, network
        self.cluster_id = "simulated"
        self.up = True
        self.wall_shift_ms = 0
        self.group = SimGroup("group", world, topics.partitions)
        self._on_touch: list[Callable[[], None]] = []

    def wall_ms(self) -> int:
        """The wall clock, which may jump."""
        return _EPOCH_MS + int(self.world.time.now * 1000) + self.wall_shift_ms

    def in_touch(self, process: Process) -> bool:
        """Whether a process and the broker hear each other."""
        return self.up and not (process.cut or process.ended or process.paused or process.killed_at)

    def when_touch_changes(self, action: Callable[[], None]) -> None:
        """Call this whenever a process may have come into touch."""
        self._on_touch.append(action)

    def touch_changed(self) -> None:
        """A process was killed, stopped, cut off or came back, or the broker did."""
        self.group.watch_sessions(self.in_touch, self.up)
        for action in self._on_touch:
            action()

    def outage(self, seconds: float) -> None:
        """The whole cluster is gone for a while. It forgets nothing."""
        if self.up:
            self.up = False
            self.world.trace("broker", "down")
            self.touch_changed()
            self.world.time.after(seconds, self.heal)

    def heal(self) -> None:
        """The cluster is back."""
        if not self.up:
            self.up = True
            self.world.trace("broker", "up")
            self.touch_changed()

    def compact(self, topic: str, *, fully: bool = False) -> None:
        """The log cleaner runs over closed segments of every partition."""
        for log in self.topics.of(topic):
            before = log.high if fully else self.world.rng.randint(log.low, log.high)
            log.compact(before)
        self.world.trace("broker", "compacts", topic)

    def ask(self, process: Process, name: str, timeout: float = ASK_SECONDS) -> None:
        """A request and its answer. Raises KafkaException when none comes in time."""
        process.call(name)
        if not self.in_touch(process):
            process.block(self.world.time.now + timeout, lambda: self.in_touch(process))
        if not self.in_touch(process):
            raise failure(KafkaError._TRANSPORT)


def failure(code: int) -> KafkaException:
    """What confluent_kafka raises for an error code."""
    retriable = code in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT)
    return KafkaException(KafkaError(code, None, False, retriable))
