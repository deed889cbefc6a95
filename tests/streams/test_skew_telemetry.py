from prometheus_client import CollectorRegistry

from schemas.metric_labels import MOST_TIERS, OTHER
from schemas.skew import SkewKind
from streams.skew_alerts import AlertState
from streams.skew_mix import KINDS, Found
from streams.skew_telemetry import SkewTelemetry


def found(versions: dict[str, float]) -> dict[SkewKind, Found]:
    return dict.fromkeys(KINDS, Found(10, 1, versions))


def labels(registry: CollectorRegistry, name: str) -> set[str]:
    return {
        sample.labels[name]
        for metric in registry.collect()
        for sample in metric.samples
        if name in sample.labels
    }


def test_a_version_that_is_in_no_window_any_more_loses_its_series() -> None:
    registry = CollectorRegistry()
    telemetry = SkewTelemetry(registry)
    telemetry.show({"realtime": found({"a" * 64: 1.0, "b" * 64: 0.5})}, {})
    before = labels(registry, "version")
    telemetry.show({"realtime": found({"b" * 64: 1.0})}, {})

    assert (before, labels(registry, "version")) == ({"a" * 12, "b" * 12}, {"b" * 12})


def test_of_tiers_that_share_a_label_the_worst_is_shown() -> None:
    registry = CollectorRegistry()
    tiers = {f"tier-{number:02}": found({}) for number in range(MOST_TIERS)}
    skewed = dict.fromkeys(KINDS, Found(10, 4, {"a" * 64: 0.9}))
    clean = dict.fromkeys(KINDS, Found(10, 0, {"a" * 64: 0.2}))
    state = {("loud", KINDS[0]): AlertState(True, 7_000), ("quiet", KINDS[0]): AlertState(False, 5_000)}
    SkewTelemetry(registry).show({**tiers, "loud": skewed, "quiet": clean}, state)

    other = {"tier": OTHER, "kind": KINDS[0]}
    assert registry.get_sample_value("skewless_skew_alert_active", other) == 1
    assert registry.get_sample_value("skewless_skew_alert_since_seconds", other) == 7
    assert registry.get_sample_value("skewless_skew_share", other) == 0.4
    assert registry.get_sample_value("skewless_skew_version_share", other | {"version": "a" * 12}) == 0.9


def test_tiers_beyond_the_bound_share_a_label() -> None:
    registry = CollectorRegistry()
    SkewTelemetry(registry).show({f"tier-{number:02}": found({}) for number in range(40)}, {})

    assert len(labels(registry, "tier")) == MOST_TIERS + 1
    assert OTHER in labels(registry, "tier")
