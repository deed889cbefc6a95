from prometheus_client import CollectorRegistry, generate_latest

from streams.stream_telemetry import StreamTelemetry


def test_every_series_of_a_step_is_there_before_its_first_event_and_is_named_as_the_others() -> None:
    registry = CollectorRegistry()
    StreamTelemetry(registry).start("windows")
    text = generate_latest(registry).decode()
    assert 'skewless_stream_dead_letters_total{reason="future_event",step="windows"} 0.0' in text
    assert 'skewless_stream_gap_events_total{step="windows"} 0.0' in text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert all(name.startswith("skewless_stream_") for name in names)
