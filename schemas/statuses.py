"""What processes say about themselves: a small JSON file each, under `status/` of the data directory.

Cutters, batch embedders and enrichment workers write them; `skewless rollover`, consoles and metrics read
them. A reader passes over fields that it does not know, so processes of two releases may stand side by side.
"""

from pydantic import BaseModel, ConfigDict


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
    """One cutter, now: `status/cutter-<tier>.json`."""

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
    missed_hours: int = 0
    """All that were ever missed; `missed_hours_ms` holds the newest of them."""
    dead_letters: int = 0


class EmbedStatus(_Status):
    """One process of a batch run, now: `status/embed-<tier>-<i>of<n>.json`.

    `partitions` and `done` count its own share of them.
    """

    tier: str
    tower_version: str
    run_id: str
    written_at_ms: int
    partitions: int
    done: int
    state_rows: int
    """Rows of pin.features.v1 read by this process, of `state_rows_expected` (compacted ones never come)."""
    state_rows_expected: int
    rows: int
    failed: int
    rows_per_second: float
    eta_seconds: float | None
    cpu_seconds: float = 0.0
    """Of the whole process, since its start."""
    waiting: str = ""


class BackfillStatus(_Status):
    """How far a worker's backfill of one tower version is."""

    pins: int
    done: bool
    failed: int = 0
    """Pins that it could not embed. Of a candidate they have to be 0 before a snapshot of it is cut."""


class TowerStatus(_Status):
    """What one tower version has cost a worker since the process began."""

    embed_cpu_seconds: float
    rows: int
    row_bytes: int
    backfill_rows: int


class WorkerStatus(_Status):
    """One enrichment worker, now: `status/worker-<n>.json`.

    Its rate is that of the last interval; totals are since its start.

    `towers` names each version that was live since `started_at_ms`. The difference of two statuses of one
    start is what lay between them; with another `started_at_ms` all totals began anew.
    """

    worker: str
    started_at_ms: int
    written_at_ms: int
    events_per_second: float
    events: int
    dead_letters: int
    lag_events: int
    partitions: int
    backfills: dict[str, BackfillStatus]
    live: list[str]
    rss_bytes: int
    towers: dict[str, TowerStatus]
