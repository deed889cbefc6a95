"""The metrics of leaves and of a root: what each means and what to do about it."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from .delta_telemetry import DeltaTelemetry
from .leaf_releases import HeldReleases
from .leaf_watcher import Attempt

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
SEARCH_OUTCOMES = ("ok", "not_held", "invalid", "error")


class LeafTelemetry:
    """Counts and gauges of one leaf."""

    def __init__(self, registry: CollectorRegistry, delta: DeltaTelemetry | None = None) -> None:
        """`delta` is of the same registry; None for a leaf without a delta segment."""
        self._registry, self._delta = registry, delta
        # Searches by a root. `not_held`: it asked for a release that this leaf has not, or no longer.
        searches = Counter("skewless_shard_searches", "Searches of a leaf.", ["outcome"], registry=registry)
        self._searches = {outcome: searches.labels(outcome) for outcome in SEARCH_OUTCOMES}
        # Time of one search inside the leaf. When it grows, so does every answer: more shards, or ivf.
        self._duration = Histogram(
            "skewless_shard_search_duration_seconds",
            "Duration of a search in the leaf.",
            buckets=_SECONDS,
            registry=registry,
        )
        # Pins per release that can be asked for: two releases after the first swap. Far from 1/n: look at
        # whether every leaf was given a number of its own.
        self._rows = Gauge("skewless_shard_rows", "Pins of the shard.", ["release"], registry=registry)
        # Releases in memory; one that is being loaded comes on top. 3 for long: a root is behind (its waiting
        # leaves say why). Above that for long: somebody holds a lease on an old one; that would be a bug.
        self._open = Gauge("skewless_shard_releases_open", "Releases in memory.", registry=registry)
        # Attempts to load a release; `refused` names the reason, /v1/shard/ready has the fix. A root waits
        # for this leaf before it swaps.
        self._loads = Counter(
            "skewless_shard_loads", "Attempts to load a release.", ["result", "reason"], registry=registry
        )
        # Duration of the last load, for knowing how long a swap has to wait.
        self._load_seconds = Gauge(
            "skewless_shard_load_seconds", "Duration of the last load.", registry=registry
        )

    def searched(self, outcome: str, seconds: float) -> None:
        """One search, answered or not."""
        self._searches[outcome].inc()
        if outcome == "ok":
            self._duration.observe(seconds)

    def loaded(self, attempt: Attempt) -> None:
        """One attempt to load a release."""
        reason = "" if attempt.refusal is None else attempt.refusal.code
        self._loads.labels(attempt.result, reason).inc()
        self._load_seconds.set(attempt.load_seconds)

    def exposition(self, held: HeldReleases, now_ms: int) -> tuple[bytes, str]:
        """The scrape: text and its content type, with what changes by time alone brought up to date."""
        if self._delta is not None:
            self._delta.age(now_ms)
        self._rows.clear()
        for release_id, rows in held.rows().items():
            self._rows.labels(release_id).set(rows)
        self._open.set(held.open)
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class RootTelemetry:
    """What a root counts about its leaves. Labels are shard numbers and the reasons named below."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # Answers by how many shards they are from. `partial` and `none`: see which shard is missing, below.
        scatters = Counter(
            "skewless_root_scatters", "Requests sent to the shards.", ["coverage"], registry=registry
        )
        self._scatters = {name: scatters.labels(name) for name in ("complete", "partial", "none")}
        # Shards missing from answers, and why. `down`, `unreachable`: start the leaf. `timeout`: it is slow,
        # or the deadline short. `broken`, `error`: its reply broke off, or was a failure: see its log.
        # `not_held`: it restarted during a swap, and is whole again after it. `other_release`, `other_shard`,
        # `other_version`, `malformed`: leaf and root are not of one deployment; the leaf answered, and the
        # root threw the answer away.
        self._missing = Counter(
            "skewless_root_shards_missing",
            "Shards missing from answers.",
            ["shard", "reason"],
            registry=registry,
        )
        # 1 when the leaf last said that it is up. 0: its Pins are in no answer.
        self._up = Gauge("skewless_root_leaf_up", "Whether the leaf answers.", ["shard"], registry=registry)
        # Leaves that the swap to CURRENT waits for. Above 0 for longer than a load takes: see their refusals.
        self._waiting = Gauge(
            "skewless_root_swap_waiting_leaves", "Leaves that have yet to load CURRENT.", registry=registry
        )

    def scattered(self, shards: int, answered: int) -> None:
        """One request's coverage."""
        name = "complete" if answered == shards else "partial" if answered else "none"
        self._scatters[name].inc()

    def missing(self, shard: int, reason: str) -> None:
        """One shard missing from one answer."""
        self._missing.labels(str(shard), reason).inc()

    def leaf_is(self, shard: int, *, up: bool) -> None:
        """What a look at the leaf showed."""
        self._up.labels(str(shard)).set(up)

    def waiting(self, leaves: int) -> None:
        """Leaves that a swap waits for now."""
        self._waiting.set(leaves)
