from prometheus_client import CollectorRegistry

from schemas.skew import SkewKind
from streams.skew_mix import KINDS, Found
from streams.skew_telemetry import MOST_TIERS, OTHER, SkewTelemetry


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


def test_tiers_beyond_the_bound_share_a_label() -> None:
    registry = CollectorRegistry()
    SkewTelemetry(registry).show({f"tier-{number:02}": found({}) for number in range(40)}, {})

    assert len(labels(registry, "tier")) == MOST_TIERS + 1
    assert OTHER in labels(registry, "tier")
