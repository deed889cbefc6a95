"""The serving edge's metrics. Each entry says what it means and what to do about it; labels are bounded.

What is served is in `release_telemetry`, the delta segment in `delta_telemetry`; all share one registry.
"""

from collections.abc import Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from .delta_telemetry import DeltaTelemetry
from .live_release import LiveRelease
from .ranked import Ranked
from .release_telemetry import POLICIES, ReleaseTelemetry
from .rollover_telemetry import RolloverTelemetry
from .swaps import Swap
from .tier_facts import TierFacts

_STAGE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
STAGES = ("query_tower", "retrieval", "l1", "auction", "total")
OUTCOMES = ("ok", "empty", "invalid", "no_release", "no_shard", "error")


class ServingTelemetry:
    """Counts and gauges of one server. Labels are bounded: versions stand only while they are served."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.release = ReleaseTelemetry(registry)
        self.delta = DeltaTelemetry(registry)
        self.rollover = RolloverTelemetry(registry)
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
        # At `enforce` it must stay 0. Anything else: roll back, keep the ranking log, file a bug. At
        # `tolerate` it counts what that policy lets through.
        responses = Counter(
            "skewless_mixed_version_responses",
            "Responses that scored a query and a Pin embedding of different tower versions.",
            ["version_policy"],
            registry=registry,
        )
        self._mixed_responses = {policy: responses.labels(policy) for policy in POLICIES}
        # The same in (query, Pin) pairs, out of all that were scored: how large the hazard is, not only how
        # often. `skewless recount` counts them again from the log.
        pairs = Counter(
            "skewless_mixed_version_pairs",
            "Scored (query, Pin) pairs of different tower versions.",
            ["version_policy"],
            registry=registry,
        )
        self._mixed_pairs = {policy: pairs.labels(policy) for policy in POLICIES}
        # All pairs that were scored: what the mixed ones are a share of.
        scored = Counter(
            "skewless_scored_pairs", "Scored (query, Pin) pairs.", ["version_policy"], registry=registry
        )
        self._scored_pairs = {policy: scored.labels(policy) for policy in POLICIES}
        # Answers by people the store did not know. A jump means that the user store is stale or gone.
        self._cold = Counter("skewless_cold_start_requests", "Requests by unknown users.", registry=registry)
        # Log rows lost: the disk was too slow or full, or a row could not be made (the server's log says it).
        # Above 0 the log no longer proves anything by itself.
        self._log_dropped = Counter(
            "skewless_ranking_log_dropped", "Ranking log rows that were lost.", registry=registry
        )
        # 1 while a release is loaded and queries are answered. 0: nothing is published, or all is refused.
        self._ready = Gauge("skewless_ready", "A release is loaded.", registry=registry)
        # 1 when CURRENT could be read at the last look. 0: the old release serves on, new ones are not seen;
        # `skewless release list` with this server's settings says what is wrong with the store.
        self._store = Gauge(
            "skewless_store_reachable", "The release store answered at the last look.", registry=registry
        )

    def answered(self, ranked: Ranked) -> None:
        """One answered request."""
        self._requests["ok" if ranked.ads else "empty"].inc()
        for stage in ranked.stages:
            self._duration[stage.stage].observe(stage.duration_seconds)
        self._duration["total"].observe(ranked.duration_seconds)
        if not ranked.asker.known:
            self._cold.inc()
        policy, mixed = ranked.provenance.version_policy, mixed_pairs(ranked)
        self._scored_pairs[policy].inc(sum(ranked.version_mix.values()))
        if mixed:
            self._mixed_responses[policy].inc()
            self._mixed_pairs[policy].inc(mixed)

    def unanswered(self, outcome: str) -> None:
        """A request that got no answer: `invalid`, `no_release` or `error`."""
        self._requests[outcome].inc()

    def log_row_dropped(self) -> None:
        """The ranking log's queue was full."""
        self._log_dropped.inc()

    def store_reachable(self, answered: bool) -> None:
        """Whether CURRENT could be read."""
        self._store.set(answered)

    def served(self, release: LiveRelease, facts: Sequence[TierFacts]) -> None:
        """A release went live, with these tiers."""
        self.release.served(release, facts)

    def refused(self, swap: Swap) -> None:
        """A release was refused."""
        self.release.refused(swap)

    def exposition(self, release: LiveRelease | None, now_ms: int) -> tuple[bytes, str]:
        """The scrape: text and its content type, with what changes by time alone brought up to date."""
        self._ready.set(release is not None)
        self.release.age(now_ms)
        self.delta.age(now_ms)
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


def mixed_pairs(ranked: Ranked) -> int:
    """Pairs that were scored for an answer with a Pin embedding of another version than the query's."""
    query = ranked.provenance.query_tower_version
    return sum(count for version, count in ranked.version_mix.items() if version != query)
