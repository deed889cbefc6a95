"""A consumer group as the broker's coordinator sees it: members, generations, sessions, offsets."""

from collections.abc import Callable
from dataclasses import dataclass, field

from confluent_kafka import KafkaError

from .scheduler import Process, Scheduler

Place = tuple[str, int]
"""(topic, partition)."""

HEARTBEAT_SECONDS = 0.4
POLL_INTERVAL_SECONDS = 300.0


@dataclass
class Member:
    """One member. `told_at`: when its next heartbeat tells it of a rebalance."""

    number: int
    process: Process
    topics: list[str]
    session_seconds: float
    generation: int = 0
    joined: bool = True
    told_at: float = 0.0
    deadline: float | None = None
    abandoned: bool = False
    """Its client has given it up and sends no more heartbeats."""
    assignment: list[Place] = field(default_factory=list)


class SimGroup:
    """Eager rebalancing with the range assignor: partition n of every topic goes to the same member."""

    def __init__(self, name: str, world: Scheduler, partitions: int) -> None:
        self._name, self._world, self._partitions = name, world, partitions
        self.members: dict[int, Member] = {}
        self.generation = 0
        self.rebalancing = False
        self.committed: dict[Place, int] = {}
        self.on_commit: Callable[[Place, int], None] = lambda place, offset: None
        self._count = self._round = 0

    def join(self, process: Process, topics: list[str], session_seconds: float) -> Member:
        """A new member; the others have to join anew."""
        self._count += 1
        member = Member(self._count, process, topics, session_seconds)
        self.members[member.number] = member
        self._world.trace(self._name, f"member {member.number} joins for {process.name}")
        self._rebalance()
        return member

    def rejoin(self, member: Member) -> None:
        """A member has let go of its partitions and takes part in the rebalance."""
        member.joined = True
        self._complete_when_all_joined()

    def leave(self, member: Member) -> None:
        """A member says goodbye."""
        self._remove(member, "leaves")

    def _remove(self, member: Member, how: str) -> None:
        if self.members.pop(member.number, None) is not None:
            self._world.trace(self._name, f"member {member.number} {how}")
            self._rebalance()

    def _rebalance(self) -> None:
        if not self.rebalancing:
            self.rebalancing = True
            self._round += 1
            number = self._round
            self._world.time.after(POLL_INTERVAL_SECONDS, lambda: self._expire_unjoined(number))
            for member in self.members.values():
                member.joined = member.generation == 0
                member.told_at = self._world.time.now + self._world.rng.random() * HEARTBEAT_SECONDS
                self._world.time.wake_at(member.told_at)
        self._complete_when_all_joined()

    def _expire_unjoined(self, number: int) -> None:
        if self.rebalancing and number == self._round:
            for member in [one for one in self.members.values() if not one.joined]:
                self._remove(member, "did not poll")

    def _complete_when_all_joined(self) -> None:
        if not self.rebalancing or not all(member.joined for member in self.members.values()):
            return
        self.rebalancing = False
        self.generation += 1
        members = list(self.members.values())
        for place, member in enumerate(members):
            # As Kafka's RangeAssignor: the first ones get one more where it does not come out even.
            each, more = divmod(self._partitions, len(members))
            first = place * each + min(place, more)
            numbers = range(first, first + each + (place < more))
            member.assignment = [(topic, number) for topic in sorted(member.topics) for number in numbers]
            member.generation = self.generation
            self._world.trace(self._name, f"gen {self.generation}: {member.number} has {list(numbers)}")

    def refusal(self, member: Member | None, generation: int) -> int | None:
        """Code of the error that a commit gets, or None for one that is accepted.

        During a rebalance the old generation may still commit; so it is in Kafka.
        """
        if member is None or member.number not in self.members:
            return KafkaError.UNKNOWN_MEMBER_ID
        return None if generation == self.generation else KafkaError.ILLEGAL_GENERATION

    def commit(self, offsets: dict[Place, int]) -> None:
        """Accept offsets. Kafka does not look whose partitions they are."""
        for place, offset in offsets.items():
            self.committed[place] = offset
            self.on_commit(place, offset)

    def watch_sessions(self, in_touch: Callable[[Process], bool], broker_up: bool) -> None:
        """Processes went in or out of touch: sessions begin or cease to run out."""
        for member in self.members.values():
            if not broker_up or (in_touch(member.process) and not member.abandoned):
                member.deadline = None
            elif member.deadline is None:
                since = self._world.rng.random() * HEARTBEAT_SECONDS
                member.deadline = self._world.time.now + member.session_seconds - since
                self._world.time.at(member.deadline, self._expire_sessions)

    def _expire_sessions(self) -> None:
        now = self._world.time.now
        for member in list(self.members.values()):
            if member.deadline is not None and member.deadline <= now:
                self._remove(member, "session expired")
