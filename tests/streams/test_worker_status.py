from schemas.statuses import BackfillStatus, TowerStatus
from streams.backfill import Progress
from streams.tower_costs import TowerCost
from streams.worker_status import Facts, StatusMeter


def _facts(lag_events: int, backfills: dict[str, Progress], costs: dict[str, TowerCost]) -> Facts:
    return Facts(2_000, lag_events, 32, backfills, list(costs), 1 << 20, costs)


def test_the_rate_is_that_of_the_last_interval_and_totals_are_since_the_start() -> None:
    now = [100.0]
    meter = StatusMeter("w", 1_000, lambda: now[0])
    assert not meter.due(1.0)
    meter.add(500, 2)
    now[0] = 102.0
    assert meter.due(1.0)
    first = meter.status(_facts(7, {"a": Progress(pins=5, done=True)}, {}))
    assert (first.events_per_second, first.events, first.dead_letters) == (250.0, 500, 2)
    assert (first.lag_events, first.partitions) == (7, 32)
    assert (first.started_at_ms, first.written_at_ms, first.rss_bytes) == (1_000, 2_000, 1 << 20)
    assert first.backfills == {"a": BackfillStatus(pins=5, done=True)}
    assert not meter.due(1.0)
    meter.add(100, 0)
    now[0] = 103.0
    assert (second := meter.status(_facts(0, {}, {}))).events_per_second == 100.0
    assert second.events == 600


def test_a_status_is_no_view_of_counts_that_go_on() -> None:
    cost = TowerCost(embed_cpu_seconds=0.5, rows=3, row_bytes=900, backfill_rows=1)
    status = StatusMeter("w", 0, lambda: 0.0).status(_facts(0, {}, {"a": cost}))
    cost.rows += 10
    assert status.live == ["a"]
    assert status.towers == {"a": TowerStatus(embed_cpu_seconds=0.5, rows=3, row_bytes=900, backfill_rows=1)}
