"""What the cutter of a tier says about itself in a small JSON file, for `skewless rollover` and consoles."""

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

log = logging.getLogger(__name__)

KEPT_MISSED_HOURS = 168
"""A week of them."""


class _Status(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class CandidateStatus(_Status):
    """How far a live tower after the first is, compared with the serving one."""

    pins: int
    of: int
    covered: float
    behind: int
    missing_pins: list[int]
    ready: bool
    blocked: str
    partitions: dict[int, float]


class CutterStatus(_Status):
    """One cutter, now."""

    tier: str
    written_at_ms: int
    started_at_ms: int
    live: list[str]
    rows: dict[str, int]
    lag_rows: int
    last_hour_ms: int | None
    missed_hours_ms: list[int]
    late_rows: int
    snapshots: int
    candidates: dict[str, CandidateStatus]


def read_cutter_status(path: Path) -> CutterStatus | None:
    """The last word of a cutter; None when there is none, or the file is no such thing."""
    try:
        return CutterStatus.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        log.warning("%s is passed over: %s", path, error.errors(include_url=False)[0]["msg"])
        return None
