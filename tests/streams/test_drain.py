"""SIGTERM under load: an end in good order, with nothing lost and next to nothing done again."""

from pathlib import Path

import pytest

from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings
from tests.kafka_fixture import EMBEDDED
from tests.streams.kill_suite.driver import Place, run
from tests.streams.kill_suite.plan import Act, Plan
from tests.streams.kill_suite.processes import EXIT_SECONDS

DRAINS = [5, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]


@pytest.mark.parametrize("drains", DRAINS)
def test_a_worker_told_to_stop_under_load_ends_with_0_and_leaves_nothing_to_repeat(
    drains: int, tmp_path: Path
) -> None:
    # One worker: a second one makes the group rebalance, and the embedded broker, unlike Kafka, takes no
    # commits from then on, so that what was done meanwhile is done again.
    plan = Plan(events=400 * (drains + 1), acts={Act.DRAIN: drains}, pins=200, workers=(1, 1))
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        # The driver itself asserts exit code 0 within the time.
        report = run(plan, Place(settings, EMBEDDED, tmp_path))
    assert report.faults() == [], report.as_json()
    assert len(report.drains_seconds) >= drains
    assert max(report.drains_seconds) <= EXIT_SECONDS == 15.0
    # Stricter than the promise, which is one batch of each partition at each stop.
    assert report.anomalies.repeated_rows <= drains * plan.batch_events
