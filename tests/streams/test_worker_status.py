from streams.backfill import Progress
from streams.worker_status import BackfillStatus, StatusMeter


def test_the_rate_is_that_of_the_last_interval_and_totals_are_since_the_start() -> None:
    now = [100.0]
    meter = StatusMeter("w", lambda: now[0])
    assert not meter.due(1.0)
    meter.add(500, 2)
    now[0] = 102.0
    assert meter.due(1.0)
    first = meter.status(7, 32, {"a": Progress(pins=5, done=True)})
    assert (first.events_per_second, first.events, first.dead_letters) == (250.0, 500, 2)
    assert (first.lag_events, first.partitions) == (7, 32)
    assert first.backfills == {"a": BackfillStatus(pins=5, done=True)}
    assert not meter.due(1.0)
    meter.add(100, 0)
    now[0] = 103.0
    assert (second := meter.status(0, 32, {})).events_per_second == 100.0
    assert second.events == 600
