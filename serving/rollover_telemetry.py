"""Metrics of a rollover, as its files say: how much of each tier the candidate tower has embedded."""

from prometheus_client import CollectorRegistry, Gauge

from schemas.metric_labels import VERSION_DIGITS

from .rollover_status import RolloverStatus
from .series import FollowedGauge, KnownTiers


class RolloverTelemetry:
    """Gauges that have series while a rollover is under way, and none otherwise."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tiers = KnownTiers()
        # Share of the tier's Pins that the candidate tower has a row for; the release needs 1 of each tier.
        # Standing still below 1: `skewless rollover status` says what it waits for.
        self._progress = FollowedGauge(
            Gauge(
                "skewless_rollover_progress_ratio",
                "Share of a tier's Pins embedded by the candidate tower.",
                ["tier"],
                registry=registry,
            )
        )

        # How long the rollover has been under way, by the first digits of the candidate's version. Far longer
        # than a full embedding takes: it is stuck, though everything serves on with the old tower.
        self._age = FollowedGauge(
            Gauge(
                "skewless_rollover_age_seconds",
                "Seconds since the rollover to this tower began.",
                ["version"],
                registry=registry,
            )
        )

    def show(self, rollover: RolloverStatus | None) -> None:
        """Take over what the files say; None when no rollover is under way."""
        if rollover is None:
            self._progress.show({})
            self._age.show({})
            return
        self._age.show({(rollover.candidate[:VERSION_DIGITS],): rollover.age_seconds})
        self._progress.show({(self._tiers.label(one.tier),): one.covered for one in rollover.tiers})
