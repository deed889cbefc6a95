"""The serving edge's metrics: the one catalogue. Each entry says what it means and what to do about it."""

from collections.abc import Iterable

import numpy as np
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from .live_release import LiveRelease
from .ranked import Ranked
from .swaps import Swap

_VERSION_DIGITS = 12
_STAGE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_FRESHNESS_SECONDS = (
    *(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0),
    *(900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0),
)
STAGES = ("query_tower", "retrieval", "l1", "auction", "total")
OUTCOMES = ("ok", "empty", "invalid", "no_release", "error")


class BulkHistogram(Collector):
    """A Prometheus histogram that takes a million observations in one call."""

    def __init__(self, name: str, documentation: str, bounds: Iterable[float]) -> None:
        self._name, self._documentation = name, documentation
        self._bounds = np.array([*bounds, np.inf])
        self._counts = np.zeros(len(self._bounds), np.int64)
        self._sum = 0.0

    def observe_many(self, values: list[float]) -> None:
        """Add observations."""
        places = np.searchsorted(self._bounds, np.array(values, np.float64), side="left")
        self._counts += np.bincount(places, minlength=len(self._bounds))
        self._sum += sum(values)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Cumulative buckets, as Prometheus wants them."""
        total = np.cumsum(self._counts)
        labels = [*(str(bound) for bound in self._bounds[:-1]), "+Inf"]
        buckets = [(label, float(count)) for label, count in zip(labels, total, strict=True)]
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)


class ServingTelemetry:
    """Counts and gauges of one server. Labels are bounded: versions stand only while they are served."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        # Answered queries. `empty` means that nobody could bid: look at the funnel's dropped reasons.
        requests = Counter("skewless_rank_requests", "Ranking requests.", ["outcome"], registry=registry)
        self._requests = {outcome: requests.labels(outcome) for outcome in OUTCOMES}
        # Where the time goes. A slow `retrieval` wants an approximate index; `total` is the promise.
        duration = Histogram(
            "skewless_rank_duration_seconds",
            "Duration of a ranking request, by stage.",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._duration = {stage: duration.labels(stage) for stage in STAGES}
        # Must stay 0. Anything else: roll back, keep the ranking log, file a bug.
        self._mixed = Counter(
            "skewless_mixed_version_responses",
            "Responses that scored a query and a Pin embedding of different tower versions.",
            registry=registry,
        )
        # Answers by people the store did not know. A jump means that the user store is stale or gone.
        self._cold = Counter("skewless_cold_start_requests", "Requests by unknown users.", registry=registry)
        # Rows of the served index, by tower version. More than one version at a time is impossible here.
        self._embeddings = Gauge(
            "skewless_index_embeddings", "Rows of the served index.", ["tier", "version"], registry=registry
        )
        # Share of the index that is of the query tower's version. Must be 1.
        self._aligned = Gauge(
            "skewless_index_aligned_ratio",
            "Share of index rows embedded by the query tower's version.",
            ["tier"],
            registry=registry,
        )
        # The version that queries are embedded with: compare with the index's.
        self._tower = Gauge(
            "skewless_query_tower_version_info", "Query tower in use.", ["version"], registry=registry
        )
        # What is served. Join on it to see a dashboard by release.
        self._release = Gauge(
            "skewless_release_info",
            "Release in use.",
            ["release", "snapshot", "tier"],
            registry=registry,
        )
        # Age of the newest event in the served release. Page above 2 h 15 min with hourly snapshots.
        self._age = Gauge(
            "skewless_release_age_seconds",
            "Seconds since the newest event in the served release was ingested.",
            registry=registry,
        )
        # Attempts to serve a release. `refused` names the reason; the status page has the fix.
        self._swaps = Counter(
            "skewless_index_swaps", "Attempts to serve a release.", ["result", "reason"], registry=registry
        )
        # Broker to servable, per Pin row, at each swap. High: slow worker, rare snapshots or slow builds.
        self._freshness = BulkHistogram(
            "skewless_event_to_servable_seconds",
            "Seconds from a Pin event's ingestion until a release that holds it is served.",
            _FRESHNESS_SECONDS,
        )
        registry.register(self._freshness)
        # Log rows lost because the disk was too slow. Above 0 the log no longer proves anything by itself.
        self._log_dropped = Counter(
            "skewless_ranking_log_dropped", "Ranking log rows lost to a full queue.", registry=registry
        )
        # Share of Pins whose input is not its default. A fall: the producer stopped sending the field.
        self._coverage = Gauge(
            "skewless_feature_coverage_ratio",
            "Share of served Pins with a value for the feature.",
            ["feature"],
            registry=registry,
        )

    def answered(self, ranked: Ranked) -> None:
        """One answered request."""
        self._requests["ok" if ranked.ads else "empty"].inc()
        for stage in ranked.stages:
            self._duration[stage.stage].observe(stage.duration_seconds)
        self._duration["total"].observe(ranked.duration_seconds)
        if not ranked.asker.known:
            self._cold.inc()
        if any(ad.tower_version != ranked.provenance.query_tower_version for ad in ranked.ads):
            self._mixed.inc()

    def unanswered(self, outcome: str) -> None:
        """A request that got no answer: `invalid`, `no_release` or `error`."""
        self._requests[outcome].inc()

    def log_row_dropped(self) -> None:
        """The ranking log's queue was full."""
        self._log_dropped.inc()

    def served(self, release: LiveRelease, swap: Swap, seconds: list[float]) -> None:
        """A release went live; `seconds` is event to servable of its new rows."""
        manifest, tower = release.manifest, release.query_tower.version
        for gauge in (self._embeddings, self._aligned, self._tower, self._release, self._coverage):
            gauge.clear()
        for version, rows in release.version_mix.items():
            self._embeddings.labels(manifest.tier, version[:_VERSION_DIGITS]).set(rows)
        self._aligned.labels(manifest.tier).set(release.version_mix.get(tower, 0) / len(release))
        self._tower.labels(tower[:_VERSION_DIGITS]).set(1)
        self._release.labels(manifest.release_id, manifest.snapshot_id, manifest.tier).set(1)
        for feature, ratio in release.coverage.items():
            self._coverage.labels(feature).set(ratio)
        self._swaps.labels("served", "").inc()
        self._freshness.observe_many(seconds)

    def refused(self, swap: Swap) -> None:
        """A release was refused."""
        self._swaps.labels("refused", swap.code).inc()

    def exposition(self, release: LiveRelease | None, now_ms: int) -> tuple[bytes, str]:
        """The scrape: text and its content type, with what changes by time alone brought up to date."""
        if release is not None:
            self._age.set(max(now_ms - release.manifest.newest_ingest_ms, 0) / 1_000.0)
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
