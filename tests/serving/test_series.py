from prometheus_client import CollectorRegistry, Gauge

from schemas.metric_labels import MOST_TIERS, OTHER
from serving.series import BulkHistogram, FollowedGauge, KnownTiers, version_labels


def test_a_followed_gauge_has_the_series_of_the_last_show_and_no_others() -> None:
    registry = CollectorRegistry()
    gauge = FollowedGauge(Gauge("skewless_test", "Test.", ["tier"], registry=registry))
    gauge.show({("a",): 1, ("b",): 2})
    gauge.show({("b",): 3, ("c",): 4})

    values = {s.labels["tier"]: s.value for family in registry.collect() for s in family.samples}
    assert values == {"b": 3, "c": 4}


def test_tiers_beyond_the_bound_share_a_label() -> None:
    tiers = KnownTiers()
    labels = [tiers.label(f"tier-{number}") for number in range(40)]

    assert len(set(labels)) == MOST_TIERS + 1
    assert labels[-1] == OTHER
    assert tiers.label("tier-0") == "tier-0"


def test_versions_beyond_the_bound_share_a_label_and_no_row_is_lost() -> None:
    mix = {f"{number:064x}"[::-1]: number + 1 for number in range(12)}
    labels = version_labels(mix)

    assert sum(labels.values()) == sum(mix.values()) == 78
    assert labels[OTHER] == 1 + 2 + 3 + 4


def test_a_bulk_histogram_counts_as_prometheus_does() -> None:
    registry = CollectorRegistry()
    histogram = BulkHistogram("skewless_test_seconds", "Test.", ("tier",), (1.0, 5.0))
    registry.register(histogram)
    histogram.observe_many(("a",), [0.5, 1.0, 4.0])
    histogram.observe_many(("a",), [9.0])
    histogram.observe_many(("b",), [])

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"skewless_test_seconds_{name}", labels)

    assert [value("bucket", tier="a", le=le) for le in ("1.0", "5.0", "+Inf")] == [2, 3, 4]
    assert (value("sum", tier="a"), value("count", tier="a"), value("count", tier="b")) == (14.5, 4, 0)
