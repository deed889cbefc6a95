from prometheus_client import CollectorRegistry

from serving.delta_telemetry import DeltaFigures
from serving.telemetry import ServingTelemetry

from .fakes import NOON_MS


def test_figures_of_the_delta_segment_are_shown_and_its_lag_grows_by_itself() -> None:
    registry = CollectorRegistry()
    telemetry = ServingTelemetry(registry)
    figures = DeltaFigures(
        rows=7,
        superseded=5,
        capacity_rows=100,
        lag_events=3,
        newest_ingest_ms=NOON_MS,
        caught_up_at_ms=NOON_MS,
    )
    telemetry.delta.show(figures)
    telemetry.exposition(None, NOON_MS + 90_000)

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"skewless_delta_{name}")

    shown = {name: value(name) for name in ("rows", "superseded_rows", "capacity_rows", "lag_events")}
    assert shown == {"rows": 7, "superseded_rows": 5, "capacity_rows": 100, "lag_events": 3}
    assert value("lag_seconds") == 90


def test_a_server_without_a_delta_segment_is_not_behind() -> None:
    registry = CollectorRegistry()
    ServingTelemetry(registry).exposition(None, NOON_MS)

    assert registry.get_sample_value("skewless_delta_lag_seconds") == 0
