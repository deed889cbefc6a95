from prometheus_client import CollectorRegistry, generate_latest

from streams.telemetry import MAX_TOWERS, EnrichmentTelemetry, tower_label


def test_every_series_is_there_before_its_first_event_and_is_named_as_the_others() -> None:
    registry = CollectorRegistry()
    EnrichmentTelemetry(registry)
    text = generate_latest(registry).decode()
    assert 'skewless_enrichment_dead_letters_total{reason="model_error",topic="pin.changed.v1"} 0.0' in text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert all(name.startswith("skewless_enrichment_") for name in names)


def test_labels_of_towers_are_bounded_whatever_is_live() -> None:
    assert [tower_label(ordinal) for ordinal in (0, 1, MAX_TOWERS, 500)] == ["0", "1", "3", "3"]
    assert len({tower_label(ordinal) for ordinal in range(500)}) == MAX_TOWERS
