"""What intake and worker tell each other when partitions change hands."""

from collections.abc import Callable
from dataclasses import dataclass

from schemas.states import StateCheckpointed

from .positions import Partition
from .sources import Ints
from .state_topic import Restored


@dataclass(frozen=True)
class Assignment:
    """Partitions that are now this worker's: where reading starts, what their last owners said."""

    starts: dict[Partition, int]
    checkpoints: dict[int, StateCheckpointed]
    unwritten: Ints
    """Pins whose states may be in no state row, and whose events will not be read again."""
    restored: Restored
    foreign: frozenset[int] = frozenset()
    """Partitions that another worker has had since this store was there last."""


@dataclass(frozen=True)
class Handover:
    """What the worker does when partitions come; when they go: finish and commit; when they are lost."""

    begin: Callable[[Assignment], None]
    finish: Callable[[], None]
    abandon: Callable[[], None]
    alive: Callable[[], None]
    """Called now and then while state is restored."""
