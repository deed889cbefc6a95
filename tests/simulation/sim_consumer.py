"""The consumer of confluent_kafka on the simulated broker, with a group or by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, OFFSET_INVALID, KafkaError, TopicPartition

from .scheduler import Process
from .sim_broker import SimBroker
from .sim_commits import SimCommits
from .sim_group import HEARTBEAT_SECONDS, Member, Place
from .sim_log import PartitionLog, SimMessage
from .sim_questions import BrokerQuestions

RebalanceCallback = Callable[[Any, list[TopicPartition]], None]

_OUT_OF_RANGE = KafkaError(KafkaError._AUTO_OFFSET_RESET, "fetch failed: offset out of range")
_FETCHED_BEFORE = 0.25
"""How often messages that were fetched before a rebalance come out of the call that tells of it."""


@dataclass
class _Callbacks:
    on_assign: RebalanceCallback | None = None
    on_revoke: RebalanceCallback | None = None
    on_lost: RebalanceCallback | None = None


@dataclass
class _Reading:
    """One assigned partition: next offset to hand out, and how far the client has read ahead."""

    next: int
    last: int = OFFSET_INVALID
    ahead: int = 0
    paused: bool = False


@dataclass
class _Session:
    """What the client believes about its membership."""

    topics: list[str] = field(default_factory=list)
    callbacks: _Callbacks = field(default_factory=_Callbacks)
    member: Member | None = None
    generation: int = 0
    holds: bool = False
    learns_at: float | None = None
    heard_at: float = 0.0


class SimConsumer(BrokerQuestions):
    """Rebalance callbacks run inside `consume` and `close`, as librdkafka's do."""

    def __init__(self, config: dict[str, Any], process: Process, broker: SimBroker) -> None:
        assert config["enable.auto.commit"] is False
        super().__init__(process, broker)
        self._config = config
        self._session = _Session()
        self._reading: dict[Place, _Reading] = {}
        self._assigned_by_hand = False
        self._commits = SimCommits(process, broker, config.get("on_commit"))
        self._closed = False

    # Assignment

    def subscribe(
        self,
        topics: Sequence[str],
        on_assign: RebalanceCallback | None = None,
        on_revoke: RebalanceCallback | None = None,
        on_lost: RebalanceCallback | None = None,
    ) -> None:
        """Join the group at the next `consume`."""
        assert self._config["partition.assignment.strategy"] == "range"
        self._session.topics = list(topics)
        self._session.callbacks = _Callbacks(on_assign, on_revoke, on_lost)
        self._session.heard_at = self._world.time.now

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Read these partitions from these offsets."""
        self._process.call("assign " + " ".join(f"{p.topic}[{p.partition}]@{p.offset}" for p in partitions))
        self._assigned_by_hand = True
        self._reading = {(one.topic, one.partition): _Reading(self._first(one)) for one in partitions}

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Hand out nothing of these."""
        self._set_paused(partitions, True)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Hand out these again."""
        self._set_paused(partitions, False)

    def _set_paused(self, partitions: Sequence[TopicPartition], paused: bool) -> None:
        self._process.call(
            ("pause " if paused else "resume ") + " ".join(f"{p.topic}[{p.partition}]" for p in partitions)
        )
        for one in partitions:
            self._reading[one.topic, one.partition].paused = paused

    def seek(self, partition: TopicPartition) -> None:
        """Go on from another offset."""
        self._process.call(f"seek {partition.topic}[{partition.partition}]@{partition.offset}")
        reading = self._reading[partition.topic, partition.partition]
        reading.next = reading.ahead = self._first(partition)

    def unassign(self) -> None:
        """Read nothing."""
        self._reading = {}

    def _first(self, one: TopicPartition) -> int:
        log = self._broker.topics.log(one.topic, one.partition)
        offset = int(one.offset)
        if offset == OFFSET_END:
            return log.high
        if offset == OFFSET_INVALID:
            offset = self._group.committed.get((one.topic, one.partition), OFFSET_BEGINNING)
        if self._asks_for_exact_offsets() and offset >= 0:
            return offset  # what is there then shows the first fetch
        return offset if log.low <= offset <= log.high else log.low

    def _asks_for_exact_offsets(self) -> bool:
        return bool(self._config.get("auto.offset.reset") == "error")

    def position(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Next offsets after what was handed out."""
        readings = [self._reading.get((one.topic, one.partition)) for one in partitions]
        return [
            TopicPartition(one.topic, one.partition, OFFSET_INVALID if it is None else it.last)
            for one, it in zip(partitions, readings, strict=True)
        ]

    # Consuming

    def consume(self, num_messages: int = 1, timeout: float = -1.0) -> list[SimMessage]:
        """Messages, and before or after them what the group has to say."""
        self._process.call("consume")
        deadline = self._world.time.now + (timeout if timeout >= 0 else 1e9)
        while True:
            self._commits.report()
            before = self._fetch(num_messages) if self._is_told_late() else []
            told = self._follow_group()
            messages = before or self._fetch(num_messages)
            if messages or self._world.time.now >= deadline:
                return messages
            if not told:
                self._process.block(deadline, self._has_news)

    def _is_told_late(self) -> bool:
        return bool(self._news()) and self._world.rng.random() < _FETCHED_BEFORE

    def _has_news(self) -> bool:
        return bool(self._news()) or self._commits.answered or self._has_messages()

    def _limit(self, place: Place, reading: _Reading) -> int:
        """Up to where messages can be handed out: the end, or what was read ahead before the line broke."""
        log = self._broker.topics.log(*place)
        if self._broker.in_touch(self._process):
            reading.ahead = min(log.high, reading.next + 3)
            return log.high
        return reading.ahead

    def _has_messages(self) -> bool:
        return any(
            one.its_offset < self._limit(place, reading)
            for place, reading in self._reading.items()
            if not reading.paused
            for one in self._broker.topics.log(*place).read(reading.next, 1)
        )

    def _fetch(self, count: int) -> list[SimMessage]:
        places = [place for place, reading in self._reading.items() if not reading.paused]
        self._world.rng.shuffle(places)
        messages: list[SimMessage] = []
        for place in places:
            reading = self._reading[place]
            log, limit = self._broker.topics.log(*place), self._limit(place, self._reading[place])
            if self._is_out_of_range(reading, log):
                reading.paused = True
                messages.append(SimMessage(*place, reading.next, 0, None, None, None, _OUT_OF_RANGE))
                continue
            reading.next = max(reading.next, log.low)
            wanted = self._world.rng.choice((1, 3, 20)) if self._session.topics else 20
            found = [one for one in log.read(reading.next, min(wanted, count)) if one.its_offset < limit]
            if found:
                reading.next = reading.last = found[-1].its_offset + 1
                messages += found
                count -= len(found)
        if messages:
            counts = " ".join(f"{m.its_topic}[{m.its_partition}]@{m.its_offset}" for m in messages)
            self._world.trace(self._process.name, "gets", counts)
        return messages

    def _is_out_of_range(self, reading: _Reading, log: PartitionLog) -> bool:
        return (
            self._asks_for_exact_offsets()
            and self._broker.in_touch(self._process)
            and not log.low <= reading.next <= log.high
        )

    # The group

    def _news(self) -> str | None:
        """What the client would learn now: `join`, `lost`, `revoke`, `rejoin`, `assign` or nothing."""
        session, now = self._session, self._world.time.now
        if not session.topics or self._closed:
            return None
        if not self._broker.in_touch(self._process):
            timed_out = session.member is not None and (
                now - session.heard_at >= session.member.session_seconds
            )
            return "lost" if session.holds and timed_out else None
        session.heard_at = now
        if session.member is None:
            return "join"
        if session.member.number not in self._group.members:
            if session.learns_at is None:
                session.learns_at = now + self._world.rng.random() * HEARTBEAT_SECONDS
                self._world.time.wake_at(session.learns_at)
            return None if now < session.learns_at else ("lost" if session.holds else "join")
        return self._rebalance_news(session, session.member)

    def _rebalance_news(self, session: _Session, member: Member) -> str | None:
        if self._group.rebalancing:
            if member.joined or self._world.time.now < member.told_at:
                return None
            return "revoke" if session.holds else "rejoin"
        return "assign" if session.generation != member.generation else None

    def _follow_group(self) -> bool:
        news = self._news()
        if news is None:
            return False
        self._world.trace(self._process.name, "is told:", news)
        session = self._session
        if news == "join":
            seconds = float(self._config["session.timeout.ms"]) / 1000
            session.member = self._group.join(self._process, session.topics, seconds)
            session.generation, session.learns_at = 0, None
        elif news == "assign":
            self._assigned()
        elif news == "rejoin":
            self._rejoin()
        else:
            self._gone(session.callbacks.on_lost if news == "lost" else session.callbacks.on_revoke)
            if news == "lost":
                self._forget_membership()
            else:
                self._rejoin()
        return True

    def _forget_membership(self) -> None:
        if self._session.member is not None:
            self._session.member.abandoned = True
            self._session.member = None
            self._broker.touch_changed()

    def _rejoin(self) -> None:
        member = self._session.member
        if member is not None and member.number in self._group.members and self._group.rebalancing:
            self._group.rejoin(member)

    def _assigned(self) -> None:
        session = self._session
        assert session.member is not None
        session.generation, session.holds = session.member.generation, True
        partitions = [TopicPartition(*place) for place in session.member.assignment]
        self._process.call("is assigned")
        self._assigned_by_hand = False
        if session.callbacks.on_assign is not None:
            session.callbacks.on_assign(self, partitions)
        if not self._assigned_by_hand:
            self.assign(partitions)

    def _gone(self, callback: RebalanceCallback | None) -> None:
        partitions = [TopicPartition(*place) for place in self._reading]
        if callback is not None:
            callback(self, partitions)
        self._session.holds = False
        self._reading = {}

    def commit(self, offsets: list[TopicPartition], asynchronous: bool = True) -> None:
        """Commit; a synchronous one raises KafkaException when it is refused or not answered."""
        self._commits.commit(offsets, self._session.member, self._session.generation, asynchronous)

    def close(self) -> None:
        """Leave; the callbacks run a last time."""
        if self._closed:
            raise RuntimeError("Consumer already closed")
        self._process.call("close")
        session = self._session
        if session.holds:
            known = session.member is not None and session.member.number in self._group.members
            self._gone(session.callbacks.on_revoke if known else session.callbacks.on_lost)
        self._closed = True
        if session.member is not None and self._broker.in_touch(self._process):
            self._group.leave(session.member)
        self._forget_membership()
