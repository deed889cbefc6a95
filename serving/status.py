"""The state of the server in one document: what the console shows and `GET /v1/status` answers."""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from .clock import Clock, seconds_since
from .live_release import LiveRelease
from .recorder import Recorder
from .rollover_status import RolloverStatus
from .swaps import SwapHistory
from .tier_facts import TierFacts

ReadWorkerStatus = Callable[[], dict[str, Any]]


class TierStatus(BaseModel):
    """One tier of the served release. `lag_seconds` is the age of the newest event in its snapshot."""

    model_config = ConfigDict(frozen=True)

    tier: str
    policy: str
    snapshot_id: str
    hour_ms: int
    rows: int
    version_mix: dict[str, int]
    aligned_ratio: float
    rows_by_versions_behind: dict[str, int]
    newest_ingest_ms: int
    lag_seconds: float


class LiveStatus(BaseModel):
    """The served release. `aligned` says that query tower and Pin embeddings are of one version."""

    model_config = ConfigDict(frozen=True)

    release_id: str
    snapshot_id: str
    tier: str
    hour_ms: int
    loaded_at_ms: int
    newest_ingest_ms: int
    age_seconds: float
    query_tower_version: str
    pin_tower_version: str
    aligned: bool
    version_policy: str
    index_kind: str
    rows: int
    dimension: int
    version_mix: dict[str, int]
    tiers: list[TierStatus]
    feature_coverage: dict[str, float]


class RequestStatus(BaseModel):
    """Recent requests: rate over the last seconds, quantiles over the last few thousand."""

    model_config = ConfigDict(frozen=True)

    total: int
    per_second: float
    stages: dict[str, dict[str, float]]


class LogStatus(BaseModel):
    """The ranking log."""

    model_config = ConfigDict(frozen=True)

    written: int
    dropped: int


class Status(BaseModel):
    """Everything at once. `current` is what the pointer on disk names; `live` is what answers."""

    model_config = ConfigDict(frozen=True)

    now_ms: int
    ready: bool
    version_policy: str
    current: str | None
    live: LiveStatus | None
    swaps: list[dict[str, Any]]
    requests: RequestStatus
    ranking_log: LogStatus
    embedded_broker: bool
    worker: dict[str, Any] | None
    rollover: RolloverStatus | None
    delta: dict[str, Any] | None


def tier_status(facts: TierFacts, now_ms: int) -> TierStatus:
    """One tier in figures; lags that no row has are left out."""
    return TierStatus(
        tier=facts.name,
        policy=facts.policy,
        snapshot_id=facts.snapshot_id,
        hour_ms=facts.hour_ms,
        rows=facts.rows,
        version_mix=facts.versions,
        aligned_ratio=facts.aligned_ratio,
        rows_by_versions_behind={lag: rows for lag, rows in facts.lag_rows.items() if rows},
        newest_ingest_ms=facts.newest_ingest_ms,
        lag_seconds=facts.lag_seconds(now_ms),
    )


def live_status(release: LiveRelease, facts: Sequence[TierFacts], now_ms: int) -> LiveStatus:
    """The served release in figures."""
    manifest, query, pins = release.manifest, release.query_tower.version, release.index.tower_version
    return LiveStatus(
        release_id=manifest.release_id,
        snapshot_id=manifest.snapshot_id,
        tier=manifest.tier,
        hour_ms=manifest.hour_ms,
        loaded_at_ms=release.loaded_at_ms,
        newest_ingest_ms=manifest.newest_ingest_ms,
        age_seconds=seconds_since(manifest.newest_ingest_ms, now_ms),
        query_tower_version=query,
        pin_tower_version=pins,
        aligned=list(release.version_mix) == [query],
        index_kind=manifest.index.kind,
        rows=len(release),
        dimension=manifest.index.dimension,
        version_policy=manifest.version_policy,
        version_mix=release.version_mix,
        tiers=[tier_status(one, now_ms) for one in facts],
        feature_coverage=release.coverage,
    )


def status_of(
    release: LiveRelease | None,
    facts: Sequence[TierFacts],
    current: str | None,
    recorder: Recorder,
    history: SwapHistory,
    clock: Clock,
) -> Status:
    """The whole document, without what only the composition root knows."""
    now_ms = clock.now_ms()
    recent, log = recorder.recent, recorder.ranking_log
    return Status(
        now_ms=now_ms,
        ready=release is not None,
        version_policy="enforce",
        current=current,
        live=None if release is None else live_status(release, facts, now_ms),
        swaps=history.as_json(),
        requests=RequestStatus(
            total=recent.requests,
            per_second=recent.per_second(now_ms // 1_000),
            stages=recent.quantiles(),
        ),
        ranking_log=LogStatus(written=log.written, dropped=log.dropped),
        embedded_broker=False,
        worker=None,
        rollover=None,
        delta=None,
    )
