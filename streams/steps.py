"""What a Faust agent drives: a step that folds raw messages into its own store and says what to send.

A step owns its state and its positions, written together, and passes over offsets that it has had: so
delivery may repeat and the effect does not. Faust brings messages and takes results, nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from schemas.errors import DeadLetterReason, InvalidMessage

from .dead_letters import Headers
from .positions import Partition


@dataclass(frozen=True)
class RawEvent:
    """One message as the broker has it. `ingested_at_ms` is the broker's timestamp.

    `read`: its value as JSON where it came framed by a schema registry, or why that cannot be read.
    """

    topic: str
    partition: int
    offset: int
    ingested_at_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    read: bytes | InvalidMessage | None = None

    def json(self) -> bytes | None:
        """The value as JSON. Raises InvalidMessage when it came framed and cannot be read."""
        if isinstance(self.read, InvalidMessage):
            raise InvalidMessage(self.read.reason, self.read.detail)
        return self.value if self.read is None else self.read


@dataclass(frozen=True)
class Output:
    """One message to be sent; without a partition it goes where its key's murmur2 hash says.

    `owner`: partition of the sources whose state it was made from. It is not sent once another worker
    owns that partition, so a worker that was cut off cannot write over what its successor has said.
    """

    topic: str
    key: bytes
    value: bytes
    partition: int | None = None
    owner: int | None = None


@dataclass(frozen=True)
class TurnedDown:
    """A message that can never be folded, and why: it goes to its topic's dead letters."""

    event: RawEvent
    reason: DeadLetterReason
    message: str


@dataclass(frozen=True)
class StepResult:
    """What one call of a step comes to.

    `counts`: what became of the events, by a few fixed names, for metrics. `more`: a tick that has not
    come to its end; the next one follows at once.
    """

    outputs: list[Output] = field(default_factory=list)
    letters: list[TurnedDown] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)
    more: bool = False


class Step(Protocol):
    """A fold over some topics, with time. Not thread-safe; one agent loop drives it, one call at a time.

    A call comes only when everything that the call before it returned is acknowledged by the broker;
    the first call is a `tick`.
    """

    @property
    def name(self) -> str:
        """For logs and metric labels."""
        ...

    @property
    def topics(self) -> tuple[str, ...]:
        """What it reads."""
        ...

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Next offset that its state needs of each of these; those it has never seen are left out."""
        ...

    def owned(self, partitions: Iterable[Partition], behind: Iterable[Partition] = ()) -> None:
        """From here on these partitions, and no others, are this worker's: time passes in these only.

        Called after every rebalance, before `apply` and `tick`. Of `behind` the state lacks what the group
        has had already: that is folded next, its predecessor has told what came of it, and then `owned` is
        called once more. Also called when outputs of the last call were held back, because their partition
        has gone: what was returned last may not have been sent.
        """
        ...

    def apply(self, events: Sequence[RawEvent]) -> StepResult:
        """Fold messages in, those of one partition in offset order; state is durable on return.

        Messages at or before a stored position change nothing, but what they led to is sent again: a
        crash may have come between store and send.
        """
        ...

    def tick(self, now_ms: int) -> StepResult:
        """Let time pass: expiries, windows that close. Called about once a second."""
        ...

    def close(self) -> None:
        """Release the store."""
        ...
