"""What a Faust agent drives: a step that folds raw messages into its own store and says what to send.

A step owns its state and its positions, written together, and passes over offsets that it has had: so
delivery may repeat and the effect does not. Faust brings messages and takes results, nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from schemas.errors import DeadLetterReason

from .dead_letters import Headers
from .positions import Partition


@dataclass(frozen=True)
class RawEvent:
    """One message as the broker has it. `ingested_at_ms` is the broker's timestamp."""

    topic: str
    partition: int
    offset: int
    ingested_at_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True)
class Output:
    """One message to be sent; without a partition it goes where its key's murmur2 hash says."""

    topic: str
    key: bytes
    value: bytes
    partition: int | None = None


@dataclass(frozen=True)
class TurnedDown:
    """A message that can never be folded, and why: it goes to its topic's dead letters."""

    event: RawEvent
    reason: DeadLetterReason
    message: str


@dataclass(frozen=True)
class StepResult:
    """What one call of a step comes to."""

    outputs: list[Output] = field(default_factory=list)
    letters: list[TurnedDown] = field(default_factory=list)


class Step(Protocol):
    """A fold over some topics, with time. Not thread-safe; one agent loop drives it."""

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
