import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from prometheus_client import CollectorRegistry

from entrypoints.settings import Settings
from entrypoints.wiring_streams import steps
from schemas.skew import SkewAlerted
from schemas.topics import RANKING_LOGGED
from streams.embedded_broker import EmbeddedBroker
from tests.entrypoints.with_broker import produce, skewless
from tests.streams.raw_events import VERSION_A, VERSION_B


@pytest.fixture
def broker() -> Iterator[str]:
    with EmbeddedBroker() as running:
        yield running.bootstrap_servers


def alert(state: Literal["raised", "cleared"], *, tier: str = "realtime") -> tuple[str, SkewAlerted]:
    row = SkewAlerted(
        tier=tier,
        kind="mixed_responses",
        state=state,
        share=0.25,
        threshold=0.0,
        versions={VERSION_A: 0.75, VERSION_B: 0.25},
        serving_version=VERSION_A,
        since_ms=1_500_000_000_000,
        occurred_at_ms=1_500_000_000_000,
    )
    return f"{tier}:mixed_responses", row


def test_a_raised_alert_is_shown_and_ends_the_command_with_1(broker: str, tmp_path: Path) -> None:
    produce(broker, alert("raised"), alert("raised", tier="batch"), alert("cleared", tier="batch"))

    table = skewless("skew", broker=broker, data_dir=tmp_path)
    as_json = skewless("skew", "--json", broker=broker, data_dir=tmp_path)

    assert (table.returncode, as_json.returncode) == (1, 1)
    assert "mixed_responses" in table.stdout
    assert "2017-07-14T02:40:00+00:00" in table.stdout
    assert "batch" not in table.stdout
    assert [(one["tier"], one["state"]) for one in json.loads(as_json.stdout)] == [
        ("realtime", "raised"),
        ("batch", "cleared"),
    ]


def test_alerts_that_are_over_are_no_failure(broker: str, tmp_path: Path) -> None:
    produce(broker, alert("raised"), alert("cleared"))

    done = skewless("skew", "--all", broker=broker, data_dir=tmp_path)

    assert done.returncode == 0
    assert "cleared" in done.stdout


def test_a_monitor_without_a_state_takes_over_what_stands_on_the_topic(broker: str, tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path, kafka_bootstrap_servers=broker)
    metrics = CollectorRegistry()
    produce(broker, alert("raised"), alert("raised", tier="batch"), alert("cleared", tier="batch"))

    (monitor,) = steps(settings, 0, ["skew_monitor"], metrics)
    monitor.owned([(RANKING_LOGGED.name, number) for number in range(RANKING_LOGGED.partitions)])
    monitor.tick(1_000)
    monitor.close()

    active = {
        tier: metrics.get_sample_value(
            "skewless_skew_alert_active", {"tier": tier, "kind": "mixed_responses"}
        )
        for tier in ("realtime", "batch")
    }
    assert active == {"realtime": 1, "batch": 0}


def test_no_broker_is_unavailable(tmp_path: Path) -> None:
    assert skewless("skew", broker="", data_dir=tmp_path).returncode == 3
