"""What one enrichment worker has handed to the producer and not yet seen acknowledged."""

from collections import Counter
from dataclasses import dataclass, field

from .positions import Partition


@dataclass
class InFlight:
    """Produced, not yet known to be acknowledged; and what to do when it is."""

    offsets: dict[Partition, int] = field(default_factory=dict)
    """To be committed."""
    meta: dict[str, bytes] = field(default_factory=dict)
    """To be stored."""
    rows: Counter[int] = field(default_factory=Counter)
    """Embedded rows by place of their tower."""
    state_rows: int = 0
    others: int = 0
    """Checkpoints, letters of a restore, counts."""

    def add_states(self, count: int, *, checkpoints: bool) -> None:
        """State rows, or checkpoints."""
        if checkpoints:
            self.others += count
        else:
            self.state_rows += count

    def __bool__(self) -> bool:
        return bool(self.offsets or self.meta or self.rows or self.state_rows or self.others)
