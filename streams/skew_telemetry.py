"""Every metric of the skew monitor. Each with what it means and what to do."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge

from schemas.metric_labels import MOST_TIERS, OTHER, VERSION_DIGITS
from schemas.skew import SkewKind

from .skew_alerts import AlertState
from .skew_mix import KINDS, Found

MOST_VERSIONS = 8


class SkewTelemetry:
    """What `SkewMonitorStep` shows, on the registry that it is given.

    Labels are bounded: versions that are in no window any more lose their series, of those in one the
    `MOST_VERSIONS` most frequent have one each, the others share `other`; so do tiers beyond `MOST_TIERS`,
    of which each gauge has the largest value.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        # 1 while the alert is raised. mixed_responses: the promise is broken, roll back (the server's own
        # count pages, MixedVersionResponses). The others: compare LIVE and CURRENT, and look whether servers
        # take the release.
        self.active = Gauge(
            "skewless_skew_alert_active",
            "Alert raised, by tier and kind",
            ["tier", "kind"],
            registry=registry,
        )
        # When the present state of the alert began, seconds since 1970 in event time; 0: never raised.
        self.since = Gauge(
            "skewless_skew_alert_since_seconds",
            "Event time since which the alert is as it is",
            ["tier", "kind"],
            registry=registry,
        )
        # Skewed share of the window. Above 0 and no alert: below the threshold, or too new.
        self.share = Gauge(
            "skewless_skew_share",
            "Skewed share of the window, by tier and kind",
            ["tier", "kind"],
            registry=registry,
        )
        # What the window is made of, by the first 12 digits of the tower version. In a rollover two
        # versions of a tier are near 1 for embeddings, and answers go from the one to the other.
        self.version_share = Gauge(
            "skewless_skew_version_share",
            "Share of a tower version in what a kind counts",
            ["tier", "kind", "version"],
            registry=registry,
        )
        self._tiers: list[str] = []
        self._series: set[tuple[str, str, str]] = set()

    def show(
        self, tiers: Mapping[str, Mapping[SkewKind, Found]], alerts: Mapping[tuple[str, SkewKind], AlertState]
    ) -> None:
        """Set every gauge to the window as it is now."""
        shares: dict[tuple[str, str, str], float] = {}
        figures: dict[tuple[str, str], tuple[float, float, float]] = {}
        for tier, kinds in tiers.items():
            label = self._tier(tier)
            for kind in KINDS:
                state = alerts.get((tier, kind), AlertState())
                mine = float(state.raised), state.since_ms / 1000, kinds[kind].share
                raised, since, share = map(max, mine, figures.get((label, kind), mine))
                figures[label, kind] = raised, since, share
                for name, part in self._shares(label, kind, kinds[kind].versions).items():
                    shares[name] = max(part, shares.get(name, 0.0))
        for labels, values in figures.items():
            for gauge, value in zip((self.active, self.since, self.share), values, strict=True):
                gauge.labels(*labels).set(value)
        for gone in self._series - set(shares):
            self.version_share.remove(*gone)
        for series, share in shares.items():
            self.version_share.labels(*series).set(share)
        self._series = set(shares)

    def _shares(
        self, tier: str, kind: str, versions: Mapping[str, float]
    ) -> dict[tuple[str, str, str], float]:
        shares: dict[tuple[str, str, str], float] = {}
        for place, (version, share) in enumerate(versions.items()):
            name = (tier, kind, version[:VERSION_DIGITS] if place < MOST_VERSIONS else OTHER)
            shares[name] = shares.get(name, 0.0) + share
        return shares

    def _tier(self, tier: str) -> str:
        if tier not in self._tiers and len(self._tiers) < MOST_TIERS:
            self._tiers.append(tier)
        return tier if tier in self._tiers else OTHER
