"""Metrics of what is served: the release, its tiers, their versions and how far behind they are."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge

from schemas.metric_labels import VERSION_DIGITS

from .clock import seconds_since
from .live_release import LiveRelease
from .series import BulkHistogram, FollowedGauge, KnownTiers, Labels, version_labels
from .swaps import Swap
from .tier_facts import TierFacts

Path = Literal["release", "delta"]
POLICIES = ("enforce", "tolerate")
_FRESHNESS_SECONDS = (
    *(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0),
    *(900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0),
)


class ReleaseTelemetry:
    """Gauges of one server's live release. Versions have series only while they are served."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tiers = KnownTiers()
        self._facts: tuple[TierFacts, ...] = ()
        self._newest_ingest_ms: int | None = None
        self._add_skew(registry)
        self._add_ages(registry)
        # Attempts to serve a release. `refused` names the reason; the status page has the fix.
        self._swaps = Counter(
            "skewless_index_swaps", "Attempts to serve a release.", ["result", "reason"], registry=registry
        )
        # Swaps to a release with older events than the one before: somebody rolled back. The audit trail
        # (`skewless release audit`) says who and why.
        self._rollbacks = Counter(
            "skewless_release_rollbacks", "Swaps back to an older release.", registry=registry
        )
        # Share of Pins whose input is not its default. A fall: empty or zero values are sent, many new Pins
        # came without the field, or state was lost. A producer that falls silent is not seen: Pins keep what
        # they had.
        self._coverage = FollowedGauge(
            Gauge(
                "skewless_feature_coverage_ratio",
                "Share of served Pins with a value for the feature.",
                ["feature"],
                registry=registry,
            )
        )

    def _add_skew(self, registry: CollectorRegistry) -> None:
        """Which versions are served, and how far they are from the queries'."""
        # Rows of the served index, by tier and tower version. More than one version of a tier at a time:
        # only with the policy `tolerate`; `skewless release show` says which snapshot brought them.
        self._embeddings = FollowedGauge(
            Gauge(
                "skewless_index_embeddings",
                "Rows of the served index.",
                ["tier", "version"],
                registry=registry,
            )
        )
        # Share of the tier's rows that are of the query tower's version. Must be 1 with `enforce`.
        self._aligned = FollowedGauge(
            Gauge(
                "skewless_index_aligned_ratio",
                "Share of index rows embedded by the query tower's version.",
                ["tier"],
                registry=registry,
            )
        )
        # Rows by how many tower versions lie between them and the queries: `0`, `1`, `2`, `3+`, `unknown`.
        # Anything but `0`: the policy is `tolerate`; embed the tier again with the serving tower.
        self._lag_rows = FollowedGauge(
            Gauge(
                "skewless_index_lag_rows",
                "Rows of the served index by tower versions behind the queries.",
                ["tier", "versions_behind"],
                registry=registry,
            )
        )
        # The version that queries are embedded with: compare with the index's, and between servers.
        self._tower = FollowedGauge(
            Gauge("skewless_query_tower_version_info", "Query tower in use.", ["version"], registry=registry)
        )
        # What is served. Join on it to see a dashboard by release.
        self._release = FollowedGauge(
            Gauge(
                "skewless_release_info",
                "Release in use.",
                ["release", "snapshot", "tier", "version_policy"],
                registry=registry,
            )
        )
        # 1 at the policy that this server was started with. `tolerate` outside an experiment: set
        # SKEWLESS_VERSION_POLICY back to enforce and start the server again.
        self._policy = Gauge(
            "skewless_version_policy",
            "Version policy in force.",
            ["version_policy"],
            registry=registry,
        )

    def _add_ages(self, registry: CollectorRegistry) -> None:
        """How old what is served is. Brought up to date at each scrape."""
        # Age of the newest event in the served release. Page above 2 h 15 min with hourly snapshots.
        self._age = Gauge(
            "skewless_release_age_seconds",
            "Seconds since the newest event in the served release was ingested.",
            registry=registry,
        )
        # The same of each tier's snapshot. One tier high alone: its cutter or its batch run stands still.
        self._tier_lag = FollowedGauge(
            Gauge(
                "skewless_tier_lag_seconds",
                "Seconds since the newest event in the tier's part of the served release was ingested.",
                ["tier", "policy"],
                registry=registry,
            )
        )
        # Broker to servable, per Pin row: `release` at each swap, `delta` at each refresh of the delta
        # segment. High: slow worker, rare snapshots or slow builds; for `delta`, a reader that is behind.
        self._freshness = BulkHistogram(
            "skewless_event_to_servable_seconds",
            "Seconds from a Pin event's ingestion until what holds it is served.",
            ("tier", "path"),
            _FRESHNESS_SECONDS,
        )
        registry.register(self._freshness)

    def policy(self, in_force: str) -> None:
        """Say which version policy this server was started with."""
        for name in POLICIES:
            self._policy.labels(name).set(name == in_force)

    def served(self, release: LiveRelease, facts: Sequence[TierFacts]) -> None:
        """A release went live, with these tiers."""
        manifest, tower = release.manifest, release.query_tower.version
        self._embeddings.show(
            {
                (self._tiers.label(one.name), version): rows
                for one in facts
                for version, rows in version_labels(one.versions).items()
            }
        )
        self._aligned.show({(self._tiers.label(one.name),): one.aligned_ratio for one in facts})
        self._lag_rows.show(
            {(self._tiers.label(one.name), lag): n for one in facts for lag, n in one.lag_rows.items()}
        )
        self._tower.show({(tower[:VERSION_DIGITS],): 1})
        self._release.show(
            {(manifest.release_id, manifest.snapshot_id, manifest.tier, manifest.version_policy): 1}
        )
        self._coverage.show({(feature,): ratio for feature, ratio in release.coverage.items()})
        self._swaps.labels("served", "").inc()
        self.servable("release", {one.name: one.servable_seconds for one in facts})
        if manifest.newest_ingest_ms < (self._newest_ingest_ms or 0):
            self._rollbacks.inc()
        self._facts, self._newest_ingest_ms = tuple(facts), manifest.newest_ingest_ms

    def servable(self, path: Path, seconds: Mapping[str, npt.ArrayLike]) -> None:
        """Rows became servable: tier -> seconds since their ingestion."""
        for tier, values in seconds.items():
            self._freshness.observe_many((self._tiers.label(tier), path), values)

    def refused(self, swap: Swap) -> None:
        """A release was refused."""
        self._swaps.labels("refused", swap.code).inc()

    def age(self, now_ms: int) -> None:
        """Bring what changes by time alone up to date."""
        if self._newest_ingest_ms is not None:
            self._age.set(seconds_since(self._newest_ingest_ms, now_ms))
        lags: dict[Labels, float] = {
            (self._tiers.label(one.name), one.policy): one.lag_seconds(now_ms) for one in self._facts
        }
        self._tier_lag.show(lags)
