"""What a cutter is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from schemas.manifests import SnapshotManifest, TowerManifest
from schemas.statuses import CutterStatus
from schemas.tiers import Tier

from .dead_letters import Headers
from .sources import DeadLetter

Letters = Sequence[tuple[DeadLetter, Headers | None]]


class LetterOutlet(Protocol):
    """Where poison goes; `streams.outlet.Outlet` is one."""

    def produce_letters(self, letters: Letters, /) -> None:
        """Queue dead letters."""
        ...

    def wait(self) -> None:
        """Return when all are acknowledged; raise when one cannot be."""
        ...


@dataclass(frozen=True)
class CutterSettings:
    """Where snapshots go, of which tier, and how much is read at a time."""

    snapshots: Path
    tier: Tier = field(default_factory=lambda: Tier(name="realtime"))
    batch_size: int = 5_000
    poll_seconds: float = 0.2


@dataclass(frozen=True)
class CutterSurroundings:
    """What the cutter is given: who is live (serving tower first), the time, and where things go.

    `on_snapshot` is called after each cut, and at start for the snapshots resumed from, because a crash
    may have come between: calling it twice for one snapshot has to be harmless. What it raises ends the run.
    `before` is the last word of the cutter before this one, `show` gets this one's.
    """

    live: Callable[[], Sequence[TowerManifest]]
    clock_ms: Callable[[], int]
    outlet: LetterOutlet
    on_snapshot: Callable[[SnapshotManifest], None]
    before: CutterStatus | None = None
    show: Callable[[CutterStatus], None] | None = None
