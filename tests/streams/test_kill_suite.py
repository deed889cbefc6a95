"""Workers, zombies, disks, a cutter and a broker are lost under load; nothing else is.

`python -m tests.streams.kill_suite` runs the same by hand, with any seed.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, ensure_topics
from streams.local_kafka import LocalKafka
from tests.kafka_fixture import SHORT_SESSIONS
from tests.streams.history import Anomalies
from tests.streams.kill_suite.driver import Place, run, small
from tests.streams.kill_suite.plan import FULL, QUICK, Act, Plan
from tests.streams.kill_suite.report import EMBEDDED, Recovery, Report
from tests.streams.kill_suite.snapshots import SnapshotFaults


def _is_as_promised(report: Report) -> None:
    assert report.faults() == [], report.as_json()
    assert report.snapshots.snapshots > 1
    killing = [one for one in report.recoveries if one.act in ("kill", "kill_twice", "lose_disk")]
    assert len(killing) == sum(report.plan.acts[act] for act in (Act.KILL, Act.KILL_TWICE, Act.LOSE_DISK))
    assert report.anomalies.keys == report.plan.pins


def test_twelve_kills_at_random_points_lose_nothing_and_repeat_little(tmp_path: Path) -> None:
    assert QUICK.kills == 12
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        _is_as_promised(run(QUICK, Place(settings, EMBEDDED, tmp_path)))


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_kills_twenty_zombies_and_three_broker_crashes_on_a_real_kafka(
    kafka_home: Path, tmp_path: Path
) -> None:
    assert FULL.kills >= 100
    with LocalKafka(kafka_home, tmp_path / "kafka", SHORT_SESSIONS) as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        ensure_topics(settings)
        _is_as_promised(run(FULL, Place(settings, "Kafka", tmp_path / "run", broker)))


def _report(**changes: Anomalies | SnapshotFaults | list[Recovery]) -> Report:
    parts = {"anomalies": Anomalies(rows=100), "snapshots": SnapshotFaults(), "recoveries": []} | changes
    return Report(QUICK, "none", 1.0, **parts)  # type: ignore[arg-type]  # each under its own name


@pytest.mark.parametrize(
    ("report", "fault"),
    [
        (_report(anomalies=Anomalies(lost=1)), "lost: 1"),
        (_report(anomalies=Anomalies(wrong=2)), "wrong: 2"),
        (_report(anomalies=Anomalies(stale_at_end=1)), "stale_at_end: 1"),
        (_report(anomalies=Anomalies(rows=106, repeated_rows=6)), "redelivered: 6.0%"),
        (_report(snapshots=SnapshotFaults(duplicates=1)), "snapshots, duplicates: 1"),
        (_report(snapshots=SnapshotFaults(reverted_rows=3)), "snapshots, reverted_rows: 3"),
        (_report(recoveries=[Recovery("zombie", 20.5)]), "recovery: 20.5 s"),
    ],
)
def test_a_broken_promise_is_a_fault(report: Report, fault: str) -> None:
    assert report.faults() == [fault]


def test_the_embedded_broker_may_repeat_more_but_not_everything() -> None:
    some = _report(anomalies=Anomalies(rows=120, repeated_rows=20))
    assert replace(some, broker=EMBEDDED).faults() == []
    assert replace(_report(anomalies=Anomalies(rows=200, repeated_rows=100)), broker=EMBEDDED).faults() == [
        "redelivered: 100.0%"
    ]


def test_five_in_a_hundred_rows_again_and_a_broker_that_takes_longer_are_no_faults() -> None:
    anomalies = Anomalies(rows=105, repeated_rows=5, stale_after_fresh=1)
    assert _report(anomalies=anomalies, recoveries=[Recovery("kill_broker", 25.0)]).faults() == []


def test_a_schedule_has_every_incident_and_the_same_order_for_the_same_seed() -> None:
    incidents = FULL.schedule()
    assert {act: incidents.count(act) for act in FULL.acts} == FULL.acts
    assert FULL.schedule() == incidents
    assert Plan(events=1, acts=FULL.acts, seed=1).schedule() != incidents


def test_a_smaller_plan_has_some_of_every_incident() -> None:
    plan = small(FULL, 5_000)
    assert plan.events == 5_000
    assert plan.acts[Act.KILL] == round(FULL.acts[Act.KILL] * 0.05)
    assert plan.acts[Act.KILL_BROKER] == 1
