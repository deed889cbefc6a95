"""What is done to whom, and in which order: decided by a seed before anything starts."""

import random
from dataclasses import dataclass
from enum import StrEnum


class Act(StrEnum):
    """One incident of a run."""

    KILL = "kill"
    """SIGKILL of a worker; it is started again on its disk."""
    KILL_TWICE = "kill_twice"
    """The same, and again while it recovers."""
    LOSE_DISK = "lose_disk"
    """SIGKILL of a worker whose state directory is gone when it comes back."""
    ZOMBIE = "zombie"
    """SIGSTOP of a worker until the others have its partitions, then SIGCONT."""
    KILL_SLOWLY_NOTICED = "kill_slowly_noticed"
    """SIGKILL of a worker that runs with the product's session timeout."""
    DRAIN = "drain"
    """SIGTERM of a worker; it is started again."""
    KILL_CUTTER = "kill_cutter"
    """SIGKILL of the snapshot cutter."""
    KILL_BROKER = "kill_broker"
    """SIGKILL of the broker; it is started again."""


@dataclass(frozen=True)
class Plan:
    """A run. Load goes on during each incident; the next begins when everyone has recovered."""

    events: int
    acts: dict[Act, int]
    pins: int = 500
    workers: tuple[int, int] = (1, 2)
    """Fewest and most at a time."""
    seed: int = 0
    events_per_second: float = 500.0
    batch_events: int = 16
    session_timeout_ms: int = 1_500
    flush_seconds: float = 1.0
    snapshot_seconds: float | None = None
    """Seconds between two cuts; None for a run without a cutter."""

    def schedule(self) -> list[Act]:
        """Every incident, shuffled."""
        incidents = [act for act in Act for _ in range(self.acts.get(act, 0))]
        random.Random(self.seed).shuffle(incidents)
        return incidents

    @property
    def kills(self) -> int:
        """SIGKILLs of workers."""
        extra = self.acts.get(Act.KILL_TWICE, 0)
        killing = (Act.KILL, Act.KILL_TWICE, Act.LOSE_DISK, Act.KILL_SLOWLY_NOTICED)
        return sum(self.acts.get(act, 0) for act in killing) + extra


QUICK = Plan(
    events=6_000,
    acts={Act.KILL: 8, Act.KILL_TWICE: 1, Act.LOSE_DISK: 2, Act.ZOMBIE: 1, Act.KILL_CUTTER: 1},
    events_per_second=600.0,
    snapshot_seconds=1.0,
)
"""Twelve kills in under a minute, on the embedded broker."""

QUICK_ON_KAFKA = Plan(
    events=6_000,
    acts={Act.KILL: 3, Act.LOSE_DISK: 1, Act.DRAIN: 1, Act.KILL_CUTTER: 1, Act.KILL_BROKER: 1},
    events_per_second=600.0,
    snapshot_seconds=1.0,
)
"""The same in small on a real Kafka, which is killed too: about as long, most of it for its return."""

FULL = Plan(
    events=100_000,
    acts={
        Act.KILL: 70,
        Act.KILL_TWICE: 10,
        Act.LOSE_DISK: 10,
        Act.KILL_SLOWLY_NOTICED: 5,
        Act.ZOMBIE: 20,
        Act.DRAIN: 10,
        Act.KILL_CUTTER: 10,
        Act.KILL_BROKER: 3,
    },
    pins=2_000,
    workers=(2, 4),
    snapshot_seconds=2.0,
)
"""The promised one, on a real Kafka."""
