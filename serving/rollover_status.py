"""A rollover as the files of the data directory tell it: which candidate, since when, how far each tier is.

Other processes write those files; this only reads them, and what is not there is not shown.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.rollovers import Rollover
from schemas.statuses import CutterStatus, EmbedStatus

from .clock import seconds_since

_Model = TypeVar("_Model", bound=BaseModel)


class TierProgress(BaseModel):
    """How far the candidate is in one tier. `waits_for` is empty when it waits for nothing."""

    model_config = ConfigDict(frozen=True)

    tier: str
    covered: float
    """Share of the tier's Pins that the candidate has embedded."""
    waits_for: str = ""


class RolloverStatus(BaseModel):
    """The rollover that is under way."""

    model_config = ConfigDict(frozen=True)

    candidate: str
    serving: str | None = None
    started_ms: int
    age_seconds: float
    tiers: list[TierProgress]

    def progress(self) -> dict[str, float]:
        """Tier -> share covered."""
        return {one.tier: one.covered for one in self.tiers}


def read_rollover(data: Path, now_ms: int) -> RolloverStatus | None:
    """The rollover of this data directory, or None when none is under way (or nobody here can say)."""
    under_way = _read(data / "towers" / "ROLLOVER.json", Rollover)
    if under_way is None:
        return None
    tiers: dict[str, TierProgress] = {}
    status = data / "status"
    for embed in _read_all(status.glob("embed-*.json"), EmbedStatus):
        if embed.tower_version == under_way.candidate:
            tiers[embed.tier] = _of_runs(tiers.get(embed.tier), embed)
    for cutter in _read_all(status.glob("cutter-*.json"), CutterStatus):
        found = cutter.candidates.get(under_way.candidate)
        if found is not None:
            tiers[cutter.tier] = TierProgress(
                tier=cutter.tier, covered=min(found.covered, 1.0), waits_for=found.blocked
            )
    return RolloverStatus(
        candidate=under_way.candidate,
        serving=under_way.serving,
        started_ms=under_way.started_ms,
        age_seconds=seconds_since(under_way.started_ms, now_ms),
        tiers=[tiers[name] for name in sorted(tiers)],
    )


def _of_runs(before: TierProgress | None, embed: EmbedStatus) -> TierProgress:
    """One part of a batch run; a tier is as far as the part that is furthest behind."""
    share = embed.done / embed.partitions if embed.partitions else 0.0
    if before is not None and before.covered <= share:
        return before
    return TierProgress(tier=embed.tier, covered=share, waits_for=embed.waiting)


def _read_all(paths: Iterable[Path], model: type[_Model]) -> list[_Model]:
    return [found for path in sorted(paths) if (found := _read(path, model)) is not None]


def _read(path: Path, model: type[_Model]) -> _Model | None:
    """What a file says; None when it is not there, or is none of ours: a console must not end with it."""
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
