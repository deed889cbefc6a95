"""The state of the server in one document: what the console shows and `skewless status` prints."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from .clock import Clock
from .live_release import LiveRelease
from .recorder import Recorder
from .swaps import SwapHistory

WorkerStatus = Callable[[], dict[str, Any]]


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
    index_kind: str
    rows: int
    dimension: int
    version_mix: dict[str, int]
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
    current: str | None
    live: LiveStatus | None
    swaps: list[dict[str, Any]]
    requests: RequestStatus
    ranking_log: LogStatus
    embedded_broker: bool
    worker: dict[str, Any] | None


def live_status(release: LiveRelease, now_ms: int) -> LiveStatus:
    """The served release in figures."""
    manifest, query, pins = release.manifest, release.query_tower.version, release.index.tower_version
    return LiveStatus(
        release_id=manifest.release_id,
        snapshot_id=manifest.snapshot_id,
        tier=manifest.tier,
        hour_ms=manifest.hour_ms,
        loaded_at_ms=release.loaded_at_ms,
        newest_ingest_ms=manifest.newest_ingest_ms,
        age_seconds=max(now_ms - manifest.newest_ingest_ms, 0) / 1_000.0,
        query_tower_version=query,
        pin_tower_version=pins,
        aligned=list(release.version_mix) == [query],
        index_kind=manifest.index.kind,
        rows=len(release),
        dimension=manifest.index.dimension,
        version_mix=release.version_mix,
        feature_coverage=release.coverage,
    )


def status_of(
    release: LiveRelease | None,
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
        current=current,
        live=None if release is None else live_status(release, now_ms),
        swaps=history.as_json(),
        requests=RequestStatus(
            total=recent.requests,
            per_second=recent.per_second(now_ms // 1_000),
            stages=recent.quantiles(),
        ),
        ranking_log=LogStatus(written=log.written, dropped=log.dropped),
        embedded_broker=False,
        worker=None,
    )
