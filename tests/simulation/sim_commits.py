"""Offset commits of one consumer on their way to the coordinator, in order, and their answers."""

from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, TopicPartition

from .scheduler import Process
from .sim_broker import ASK_SECONDS, SimBroker, failure
from .sim_group import Member, Place

_COMMIT_SECONDS = 0.05


@dataclass
class _Commit:
    offsets: dict[Place, int]
    member: Member | None
    generation: int
    error: int | None = None
    done: bool = False


class SimCommits:
    """Sends commits; `on_commit` hears of the asynchronous ones."""

    def __init__(self, process: Process, broker: SimBroker, on_commit: Any) -> None:
        self._process, self._broker, self._world = process, broker, broker.world
        self._on_commit = on_commit
        self._waiting: list[_Commit] = []
        self._free_at = 0.0

    @property
    def answered(self) -> bool:
        """Whether there is something to report."""
        return any(one.done for one in self._waiting)

    def commit(
        self, offsets: list[TopicPartition], member: Member | None, generation: int, asynchronous: bool
    ) -> None:
        """Send a commit; a synchronous one raises KafkaException when it is refused or not answered."""
        wanted = {(one.topic, one.partition): int(one.offset) for one in offsets}
        self._process.call(f"commit {'async' if asynchronous else 'sync'} {sorted(wanted.items())}")
        one = _Commit(wanted, member, generation)
        delay = self._world.rng.random() * _COMMIT_SECONDS
        self._free_at = max(self._free_at, self._world.time.now + delay)
        self._world.time.at(self._free_at, lambda: self._apply(one))
        if asynchronous:
            self._waiting.append(one)
            return
        self._process.block(self._world.time.now + ASK_SECONDS, lambda: one.done)
        self._process.call("committed")
        if not one.done or one.error is not None:
            raise failure(KafkaError._TIMED_OUT if one.error is None else one.error)

    def _apply(self, one: _Commit) -> None:
        reachable = self._broker.up and not self._process.cut
        one.error = (
            self._broker.group.refusal(one.member, one.generation) if reachable else KafkaError._TRANSPORT
        )
        if one.error is None:
            self._world.trace(self._process.name, f"commits {sorted(one.offsets.items())}")
            self._broker.group.commit(one.offsets)
        one.done = True

    def report(self) -> None:
        """Tell of the asynchronous ones that are answered."""
        done = [one for one in self._waiting if one.done]
        self._waiting = [one for one in self._waiting if not one.done]
        for one in done:
            if self._on_commit is not None:
                error = None if one.error is None else failure(one.error).args[0]
                self._on_commit(
                    error, [TopicPartition(*place, offset) for place, offset in one.offsets.items()]
                )
