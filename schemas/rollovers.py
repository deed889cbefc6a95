"""The record of a rollover under way: which tower is to follow which, by whose wish, and from what."""

from typing import Annotated

from pydantic import Field, ValidationError

from .embeddings import Sha256Hex
from .errors import Refused
from .ids import EpochMs
from .manifests import Manifest

ROLLOVER_FORMAT = 1


class TowerWork(Manifest):
    """What enrichment workers have spent on one tower version, all of them together."""

    embed_cpu_seconds: float = 0.0
    rows: int = 0
    row_bytes: int = 0
    backfill_rows: int = 0


class WorkerBaseline(Manifest):
    """One worker's counters at the start. They begin at 0 again with another `started_at_ms`."""

    started_at_ms: EpochMs
    rss_bytes: int
    towers: dict[str, TowerWork]


class Rollover(Manifest):
    """`towers/ROLLOVER.json`. There while a candidate is on its way; removed last, whatever becomes of it."""

    format: Annotated[int, Field(ge=1, le=ROLLOVER_FORMAT)] = ROLLOVER_FORMAT
    candidate: Sha256Hex
    serving: Sha256Hex
    started_ms: EpochMs
    actor: str
    reason: str
    manual: bool = Field(
        description="the release is built but not published before `skewless rollover finish`"
    )
    kept_snapshots: list[str] = Field(description="the candidate's from before: an abort leaves them")
    kept_releases: list[str]
    kept_runs: list[str]
    baseline: dict[str, WorkerBaseline] = Field(description="worker -> its counters at the start")
    moves: int | None = Field(
        default=None, ge=0, description="how many moves of CURRENT there were at the start"
    )
    embedded_before: bool = Field(
        default=False, description="LIVE named the candidate at the start already: workers embedded with it"
    )


def parse_rollover(text: bytes, where: str) -> Rollover:
    """Raises Refused (`bad_rollover`) for anything that is no such record."""
    try:
        return Rollover.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        said = f"{'.'.join(map(str, first['loc'])) or 'text'}: {first['msg']}"
        fix = "Move it away, set LIVE with `skewless towers live`, and start the rollover again."
        raise Refused("bad_rollover", f"the record of a rollover in {where}", said, fix) from error
