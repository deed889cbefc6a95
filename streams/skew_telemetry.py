"""Every metric of the skew monitor. Each with what it means and what to do."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge

from schemas.skew import SkewKind

from .skew_alerts import AlertState
from .skew_mix import KINDS, Found

MOST_TIERS = 16
MOST_VERSIONS = 8
OTHER = "other"
_VERSION_DIGITS = 12


class SkewTelemetry:
    """What `SkewMonitorStep` shows, on the registry that it is given.

    Labels are bounded: versions that are in no window any more lose their series, of those in one the
    `MOST_VERSIONS` most frequent have one each, the others share `other`; so do tiers beyond `MOST_TIERS`.
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
        for tier, kinds in tiers.items():
            label = self._tier(tier)
            for kind in KINDS:
                state = alerts.get((tier, kind), AlertState())
                self.active.labels(label, kind).set(state.raised)
                self.since.labels(label, kind).set(state.since_ms / 1000)
                self.share.labels(label, kind).set(kinds[kind].share)
                shares |= self._shares(label, kind, kinds[kind].versions)
        for gone in self._series - set(shares):
            self.version_share.remove(*gone)
        for labels, share in shares.items():
            self.version_share.labels(*labels).set(share)
        self._series = set(shares)

    def _shares(
        self, tier: str, kind: str, versions: Mapping[str, float]
    ) -> dict[tuple[str, str, str], float]:
        shares: dict[tuple[str, str, str], float] = {}
        for place, (version, share) in enumerate(versions.items()):
            name = (tier, kind, version[:_VERSION_DIGITS] if place < MOST_VERSIONS else OTHER)
            shares[name] = shares.get(name, 0.0) + share
        return shares

    def _tier(self, tier: str) -> str:
        if tier not in self._tiers and len(self._tiers) < MOST_TIERS:
            self._tiers.append(tier)
        return tier if tier in self._tiers else OTHER
