"""Two things that prometheus_client lacks: series that follow a dictionary, and histograms filled in bulk."""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from prometheus_client import Gauge
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from schemas.metric_labels import MOST_TIERS, OTHER, VERSION_DIGITS

MOST_VERSIONS = 8

Labels = tuple[str, ...]


class FollowedGauge:
    """A gauge whose series are exactly those of the last `show`: what is gone loses its series."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._shown: set[Labels] = set()

    def show(self, values: Mapping[Labels, float]) -> None:
        """Set every series. The new ones are there before the old ones go, so a scrape never sees none."""
        for labels, value in values.items():
            self._gauge.labels(*labels).set(value)
        for gone in self._shown - set(values):
            self._gauge.remove(*gone)
        self._shown = set(values)


class KnownTiers:
    """Tier names as label values: the first `MOST_TIERS` have their own, all others share `other`."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def label(self, tier: str) -> str:
        """The label value of a tier."""
        if tier not in self._names and len(self._names) < MOST_TIERS:
            self._names.append(tier)
        return tier if tier in self._names else OTHER


def version_labels(mix: Mapping[str, int]) -> dict[str, int]:
    """Rows by the first digits of their version; those beyond the `MOST_VERSIONS` largest share `other`."""
    labels: dict[str, int] = {}
    for place, (version, rows) in enumerate(sorted(mix.items(), key=lambda one: (-one[1], one[0]))):
        name = version[:VERSION_DIGITS] if place < MOST_VERSIONS else OTHER
        labels[name] = labels.get(name, 0) + rows
    return labels


class BulkHistogram(Collector):
    """A labelled Prometheus histogram that takes a million observations in one call."""

    def __init__(
        self, name: str, documentation: str, labels: tuple[str, ...], bounds: Iterable[float]
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._bounds = np.array([*bounds, np.inf])
        self._counts: dict[Labels, npt.NDArray[np.int64]] = {}
        self._sums: dict[Labels, float] = {}

    def observe_many(self, labels: Labels, values: npt.ArrayLike) -> None:
        """Add observations, float [N], to the series of these labels; none of them still makes the series."""
        seconds = np.asarray(values, np.float64)
        places = np.searchsorted(self._bounds, seconds, side="left")
        size = len(self._bounds)
        before = self._counts.get(labels, np.zeros(size, np.int64))
        self._sums[labels] = self._sums.get(labels, 0.0) + float(seconds.sum())
        # One assignment of a new array: a scrape in another thread sees all of them or none.
        self._counts[labels] = before + np.bincount(places, minlength=size)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Cumulative buckets, as Prometheus wants them."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        bounds = [*(str(bound) for bound in self._bounds[:-1]), "+Inf"]
        for labels, counts in list(self._counts.items()):
            total = np.cumsum(counts).tolist()
            buckets = [(bound, float(count)) for bound, count in zip(bounds, total, strict=True)]
            family.add_metric(labels, buckets, sum_value=self._sums[labels])
        yield family
