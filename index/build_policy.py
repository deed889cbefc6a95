"""What a build insists on, and what it may use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.tiers import Tiers, VersionPolicy

from .canaries import Canaries
from .gates import Gate

Kind = Literal["auto", "flat", "ivf", "hnsw"]
BuiltKind = Literal["flat", "ivf", "hnsw"]


@dataclass(frozen=True)
class BuildPolicy:
    """What a build insists on, and what it may use.

    `tiers`: those that must all be there, each Pin in its own; None where nothing is declared.
    `version_policy`: `tolerate` joins snapshots of any tower versions, the newest row of each Pin.
    """

    min_rows_ratio: float = 0.5
    min_recall: float = 0.95
    recall_at: int = 100
    recall_queries: int = 256
    threads: int = 1
    seed: int = 0
    tiers: Tiers | None = None
    version_policy: VersionPolicy = "enforce"
    canaries: Canaries | None = None
    gates: Sequence[Gate] = ()
