"""Metrics of the snapshots on disk: what each tier has, of which tower, and how old it is.

Read from the manifests at each scrape, so that the snapshots of batch runs, which end, are seen too. Every
cutter tells of all tiers: rules aggregate by tier.
"""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from index.snapshots import list_snapshots, snapshot_manifest
from schemas.artefacts import READY
from schemas.errors import Refused
from schemas.manifests import SnapshotManifest
from schemas.metric_labels import MOST_TIERS, VERSION_DIGITS

from .cutter_status import read_cutter_status

MOST_VERSIONS = 4
"""Newest tower versions that a tier has series for; snapshots of older ones are leftovers."""

Newest = dict[tuple[str, str], tuple[float, SnapshotManifest]]
"""(tier, tower version) -> when its newest snapshot was finished, and the manifest."""


class SnapshotTelemetry(Collector):
    """Collects from `root` (snapshots) and `status` (what cutters said last). Register it once a process."""

    def __init__(
        self,
        root: Path,
        status: Path,
        now_seconds: Callable[[], float],
        batch_tiers: Collection[str] = (),
    ) -> None:
        """`batch_tiers`: what was cut of these from the stream is left over from when they were realtime."""
        self._root, self._status, self._now_seconds = root, status, now_seconds
        self._batch_tiers = batch_tiers
        self._manifests: dict[str, SnapshotManifest] = {}

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing is read when it is registered."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """Every series as of now."""
        yield from self._snapshots(self._newest())
        yield from self._cutters()

    def _snapshots(self, newest: Newest) -> Iterable[GaugeMetricFamily]:
        now = self._now_seconds()
        # Rows of the newest snapshot of a tier and tower version. In a rollover the candidate's come up to
        # the serving one's; a fall: state was lost, or Pins were deleted.
        rows = GaugeMetricFamily(
            "skewless_snapshot_rows", "Rows of the newest snapshot.", labels=["tier", "source", "version"]
        )
        # Seconds since that snapshot was finished. Above the cadence of the tier: its cutter or its batch run
        # stands still, or nothing changes.
        age = GaugeMetricFamily(
            "skewless_snapshot_age_seconds",
            "Seconds since the newest snapshot was cut.",
            labels=["tier", "source", "version"],
        )
        # Seconds since the newest event in it was ingested. High while the age is low: the worker is behind.
        lag = GaugeMetricFamily(
            "skewless_snapshot_lag_seconds",
            "Seconds since the newest event in the newest snapshot was ingested.",
            labels=["tier", "source", "version"],
        )
        for (tier, version), (finished, manifest) in newest.items():
            names = [tier, manifest.source, version[:VERSION_DIGITS]]
            rows.add_metric(names, manifest.versions[version])
            age.add_metric(names, max(now - finished, 0.0))
            lag.add_metric(names, max(now - manifest.newest_ingest_ms / 1_000, 0.0))
        yield from (rows, age, lag)

    def _newest(self) -> Newest:
        newest: Newest = {}
        present = list_snapshots(self._root)
        self._manifests = {name: self._manifests[name] for name in present if name in self._manifests}
        for name in present:
            with suppress(Refused, OSError):  # deleted just now, or damaged: others will complain of it
                manifest = self._manifests.get(name) or snapshot_manifest(self._root, name)
                self._manifests[name] = manifest
                if manifest.source == "stream" and manifest.tier in self._batch_tiers:
                    continue
                finished = (self._root / name / READY).stat().st_mtime
                for version in manifest.versions:
                    key = manifest.tier, version
                    if key not in newest or finished > newest[key][0]:
                        newest[key] = finished, manifest
        return _bounded(newest)

    def _cutters(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        # Messages of pin.embedded.v1 that a tier's cutter has not read. Growing: it is away or too slow.
        lag = GaugeMetricFamily(
            "skewless_cutter_lag_rows", "Messages that the cutter has not read yet.", labels=["tier"]
        )
        # Hours that were never cut because the cutter was away, restarts included. They stay uncut: the next
        # one covers them.
        missed = CounterMetricFamily(
            "skewless_cutter_missed_hours", "Hours that were never cut.", labels=["tier"]
        )
        # Rows that came after their hour had been cut; the next snapshot has them. Growing: a late producer.
        late = CounterMetricFamily(
            "skewless_cutter_late_rows", "Rows of an hour that was cut already.", labels=["tier"]
        )
        # Dead letters of the cutter. Our own workers write pin.embedded.v1: each is a defect, or somebody
        # else writes there. The x-dlq headers on pin.embedded.v1.dlq say what is wrong.
        letters = CounterMetricFamily(
            "skewless_cutter_dead_letters", "Dead-lettered rows since the cutter began.", labels=["tier"]
        )
        for path in sorted(self._status.glob("cutter-*.json"))[:MOST_TIERS]:
            with suppress(OSError):
                said = read_cutter_status(path)
                if said is not None:
                    lag.add_metric([said.tier], said.lag_rows)
                    missed.add_metric([said.tier], max(said.missed_hours, len(said.missed_hours_ms)))
                    late.add_metric([said.tier], said.late_rows)
                    letters.add_metric([said.tier], said.dead_letters)
        yield from (lag, missed, late, letters)


def _bounded(newest: Newest) -> Newest:
    """The `MOST_VERSIONS` newest versions of the first `MOST_TIERS` tiers."""
    tiers = sorted({tier for tier, _ in newest})[:MOST_TIERS]
    kept: Newest = {}
    for tier in tiers:
        own = [key for key in newest if key[0] == tier]
        for key in sorted(own, key=lambda one: newest[one][0], reverse=True)[:MOST_VERSIONS]:
            kept[key] = newest[key]
    return kept
