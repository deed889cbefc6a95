"""Workers, zombies, disks, a cutter and a broker are lost under load; nothing else is.

`python -m tests.streams.kill_suite` runs the same by hand, with any seed.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from streams.kafka import KafkaSettings, ensure_topics
from streams.local_kafka import LocalKafka
from tests.kafka_fixture import EMBEDDED, KAFKA, SHORT_SESSIONS, KafkaUnderTest
from tests.streams.history import Anomalies
from tests.streams.kill_suite.driver import Place, run, small
from tests.streams.kill_suite.plan import FULL, QUICK, QUICK_ON_KAFKA, Act, Plan
from tests.streams.kill_suite.processes import Exit
from tests.streams.kill_suite.report import Recovery, Report
from tests.streams.kill_suite.snapshots import SnapshotFaults


def _is_as_promised(report: Report) -> None:
    assert report.faults() == [], report.as_json()
    assert report.snapshots.snapshots > 1
    killing = [one for one in report.recoveries if one.act in ("kill", "kill_twice", "lose_disk")]
    acts = (Act.KILL, Act.KILL_TWICE, Act.LOSE_DISK)
    assert len(killing) == sum(report.plan.acts.get(act, 0) for act in acts) > 0
    assert report.anomalies.keys == report.plan.pins


PLANS = {EMBEDDED: QUICK, KAFKA: QUICK_ON_KAFKA}


@pytest.mark.timeout(300)
def test_kills_at_random_points_lose_nothing_and_repeat_little(
    empty_broker: KafkaUnderTest, tmp_path: Path
) -> None:
    settings = empty_broker.settings("kill-suite")
    place = Place(settings, empty_broker.kind, tmp_path, empty_broker.local)
    report = run(PLANS[empty_broker.kind], place)
    _is_as_promised(report)
    assert ("kill_broker" in {one.act for one in report.recoveries}) == (empty_broker.kind == KAFKA)


def test_the_quick_plans_kill_what_the_documentation_says() -> None:
    assert QUICK.kills == 12
    assert (QUICK_ON_KAFKA.kills, QUICK_ON_KAFKA.acts[Act.KILL_BROKER]) == (4, 1)


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
        _is_as_promised(run(FULL, Place(settings, KAFKA, tmp_path / "run", broker)))


def _report(**changes: Anomalies | SnapshotFaults | list[Recovery] | list[Exit]) -> Report:
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
        (_report(exits=[Exit("worker-0", 3, "")]), "worker-0 ended by itself with 3"),
        (_report(exits=[Exit("cutter", 3, "")]), "cutter ended by itself with 3"),
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


def test_a_cutter_may_end_when_the_broker_is_killed_but_only_as_unavailable() -> None:
    exits = [Exit("cutter", code, "") for code in (3, 1, 3)]
    assert replace(_report(exits=exits), plan=QUICK_ON_KAFKA).faults() == ["cutter ended by itself with 1"]


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
