"""Planted faults of a cluster, as facts; and a few on a real Kafka."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but not in __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from entrypoints.doctor import Finding
from entrypoints.doctor_kafka import Needs, check_kafka, our_topics
from schemas.times import DAY_MS
from schemas.topics import DEAD_LETTERED, PIN_CHANGED, PIN_FEATURES, TOPICS, VISIT_OBSERVED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, ensure_topics
from streams.local_kafka import LocalKafka
from streams.topic_report import KafkaFacts, TopicFacts, gather_kafka

HOUR_MS = 3_600_000
NEEDS = Needs(snapshot_interval_ms=HOUR_MS, restore_ms=HOUR_MS)


def healthy() -> KafkaFacts:
    topics = {
        topic.name: TopicFacts(
            topic.partitions,
            3,
            config={
                "cleanup.policy": "compact" if topic.compacted else "delete",
                "retention.ms": str(topic.retention_ms),
                "retention.bytes": "-1",
                "min.insync.replicas": "2",
            },
        )
        for topic in TOPICS.values()
    }
    letters = {
        topic.dlq: TopicFacts(1, 3, config={"cleanup.policy": "delete", "min.insync.replicas": "2"})
        for topic in DEAD_LETTERED
    }
    return KafkaFacts(
        "k:9092", brokers=3, topics=topics | letters, lags={"skewless-enrichment": 7}, newest_ms=5, now_ms=9
    )


def with_topic(name: str, *, config: dict[str, str] | None = None, **fields: object) -> KafkaFacts:
    facts = healthy()
    topic = facts.topics[name]
    topic = replace(topic, config={**topic.config, **(config or {})}, **fields)  # type: ignore[arg-type]
    return replace(facts, topics={**facts.topics, name: topic})


def without_topic(name: str) -> KafkaFacts:
    facts = healthy()
    return replace(facts, topics={other: one for other, one in facts.topics.items() if other != name})


def wrong(facts: KafkaFacts) -> list[tuple[str, str]]:
    bad = [one for one in check_kafka(facts, NEEDS) if one.status in ("WARN", "FAIL")]
    assert all(one.fix for one in bad)
    return [(one.check, one.status) for one in bad]


def test_a_healthy_cluster_has_nothing_wrong() -> None:
    assert {one.status for one in check_kafka(healthy(), NEEDS)} == {"OK"}


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (KafkaFacts("k:1", error="transport failure"), ("broker", "FAIL")),
        (KafkaFacts("k:1", error="transport failure", refused_login=True), ("login", "FAIL")),
        (without_topic(PIN_CHANGED.name), ("topics", "FAIL")),
        (without_topic(PIN_CHANGED.dlq), ("topics", "FAIL")),
        (with_topic(PIN_CHANGED.name, partitions=5), ("partitions", "FAIL")),
        (with_topic(PIN_CHANGED.name, leaderless=1), ("partitions", "FAIL")),
        (with_topic(PIN_FEATURES.name, config={"cleanup.policy": "delete"}), ("cleanup", "FAIL")),
        (with_topic(PIN_CHANGED.name, config={"cleanup.policy": "compact"}), ("cleanup", "FAIL")),
        (with_topic(PIN_CHANGED.dlq, config={"cleanup.policy": "compact"}), ("cleanup", "FAIL")),
        (with_topic(PIN_CHANGED.name, config={"retention.ms": str(3 * HOUR_MS - 1)}), ("retention", "FAIL")),
        (with_topic(VISIT_OBSERVED.name, config={"retention.ms": str(91 * DAY_MS)}), ("retention", "FAIL")),
        (with_topic(PIN_CHANGED.name, config={"retention.bytes": "1000"}), ("retention", "WARN")),
        (
            with_topic(PIN_CHANGED.name, replicas=1, config={"min.insync.replicas": "1"}),
            ("replication", "WARN"),
        ),
        (
            with_topic(PIN_CHANGED.name, config={"min.insync.replicas": "4"}),
            ("min.insync.replicas", "FAIL"),
        ),
        (
            with_topic(PIN_CHANGED.name, config={"min.insync.replicas": "3"}),
            ("min.insync.replicas", "WARN"),
        ),
        (
            with_topic(PIN_CHANGED.name, config={"min.insync.replicas": "1"}),
            ("min.insync.replicas", "WARN"),
        ),
        (
            with_topic(VISIT_OBSERVED.name, config={"message.timestamp.type": "CreateTime"}),
            ("broker time", "WARN"),
        ),
        (replace(healthy(), lags={"skewless-cutter": 100_001}), ("group lag", "WARN")),
        (replace(healthy(), newest_ms=5_010, now_ms=9), ("clock", "WARN")),
        (replace(healthy(), config_error="not authorised"), ("topic settings", "WARN")),
    ],
)
def test_a_fault_of_the_cluster_is_found(facts: KafkaFacts, found: tuple[str, str]) -> None:
    assert wrong(facts) == [found]


@pytest.mark.parametrize(
    "facts",
    [
        with_topic(PIN_CHANGED.name, config={"retention.ms": "-1"}),
        with_topic(VISIT_OBSERVED.name, config={"message.timestamp.type": "LogAppendTime"}),
        with_topic(PIN_FEATURES.name, config={"message.timestamp.type": "CreateTime"}),
        with_topic(PIN_CHANGED.name, config={"retention.ms": str(3 * HOUR_MS)}),
        with_topic(PIN_FEATURES.name, config={"retention.ms": "1"}),
        replace(healthy(), newest_ms=5_009, now_ms=9),
        replace(healthy(), lags={"skewless-cutter": 100_000}),
    ],
)
def test_what_is_just_good_enough_is_no_fault(facts: KafkaFacts) -> None:
    assert wrong(facts) == []


def the_fix(facts: KafkaFacts) -> str:
    (finding,) = (one for one in check_kafka(facts, NEEDS) if one.status == "FAIL")
    return finding.fix


def test_a_topic_with_too_few_partitions_is_made_anew_only_where_it_can_be_filled_again() -> None:
    sources = the_fix(with_topic(PIN_CHANGED.name, partitions=5))
    states = the_fix(with_topic(PIN_FEATURES.name, partitions=5))

    assert (
        "loses what is on it: kafka-topics.sh --bootstrap-server k:9092 --delete --topic pin.changed.v1;"
        in sources
    )
    assert "--delete" not in states
    assert "the other topics do not go back far enough to rebuild it" in states


def test_a_command_for_a_topics_settings_says_which_cluster_it_is_for() -> None:
    config = {"cleanup.policy": "delete"}

    assert the_fix(with_topic(PIN_FEATURES.name, config=config)) == (
        "kafka-configs.sh --bootstrap-server k:9092 --alter --entity-type topics "
        "--entity-name pin.features.v1 --add-config cleanup.policy=compact"
    )


def test_one_command_makes_the_broker_stamp_every_topic_whose_times_are_looked_at() -> None:
    created = {"message.timestamp.type": "CreateTime"}
    topics = {name: replace(one, config={**one.config, **created}) for name, one in healthy().topics.items()}
    (finding,) = (
        one for one in check_kafka(replace(healthy(), topics=topics), NEEDS) if one.status == "WARN"
    )

    assert finding.fix.startswith(
        "for topic in pin.changed.v1 pin.aggregated.v1 visit.observed.v1 engagement.observed.v1 "
        "impression.served.v1 ranking.logged.v1 embeddings.counted.v1; do kafka-configs.sh "
        "--bootstrap-server k:9092 --alter "
    )
    assert finding.fix.endswith(
        "--entity-name $topic --add-config message.timestamp.type=LogAppendTime; done"
    )


def test_what_the_embedded_broker_cannot_tell_is_skipped_with_a_reason() -> None:
    with EmbeddedBroker() as broker:
        facts = gather_kafka(KafkaSettings(bootstrap_servers=broker.bootstrap_servers), our_topics())

    found = {one.check: one for one in check_kafka(facts, NEEDS)}
    assert facts.embedded
    assert found["topics"].status == "OK"
    assert "memory only" in found["broker"].found
    for name in ("topic settings", "group lag", "clock"):
        assert (found[name].status, bool(found[name].found)) == ("SKIP", True)


def test_a_topic_that_the_embedded_broker_lacks_is_found() -> None:
    topics = [(name, 32) for name in our_topics() if name != "pin.embedded.v1"]
    with EmbeddedBroker(topics) as broker:
        facts = gather_kafka(KafkaSettings(bootstrap_servers=broker.bootstrap_servers), our_topics())

    missing = [one for one in check_kafka(facts, NEEDS) if one.check == "topics"]
    assert [(one.status, one.found) for one in missing] == [("FAIL", "missing: pin.embedded.v1")]


@pytest.fixture(scope="module")
def own_kafka(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    with LocalKafka(kafka_home, tmp_path_factory.mktemp("kafka")) as local:
        settings = KafkaSettings(bootstrap_servers=local.bootstrap_servers)
        ensure_topics(settings)
        yield settings


def examined(settings: KafkaSettings) -> list[Finding]:
    return list(check_kafka(gather_kafka(settings, our_topics()), NEEDS))


def failed(findings: list[Finding]) -> dict[str, str]:
    return {one.check: one.found for one in findings if one.status == "FAIL"}


@pytest.mark.kafka
def test_on_a_real_kafka_fresh_topics_are_as_they_should_be_but_have_one_copy(
    own_kafka: KafkaSettings,
) -> None:
    begun = time.monotonic()
    findings = examined(own_kafka)

    assert failed(findings) == {}
    assert [one.check for one in findings if one.status == "WARN"] == ["replication"]
    assert time.monotonic() - begun < 10


def _set(admin: AdminClient, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(15)


@pytest.mark.kafka
def test_on_a_real_kafka_planted_faults_are_found(own_kafka: KafkaSettings) -> None:
    admin = AdminClient({"bootstrap.servers": own_kafka.bootstrap_servers, "log_level": 0})
    _set(admin, PIN_CHANGED.name, "retention.ms", "60000")
    _set(admin, PIN_FEATURES.name, "cleanup.policy", "delete")
    _set(admin, "pin.aggregated.v1", "min.insync.replicas", "2")
    admin.delete_topics([VISIT_OBSERVED.name])[VISIT_OBSERVED.name].result(15)
    admin.delete_topics(["ranking.logged.v1"])["ranking.logged.v1"].result(15)
    admin.create_topics([NewTopic("ranking.logged.v1", 3, 1)])["ranking.logged.v1"].result(15)

    wanted = {"retention", "cleanup", "min.insync.replicas", "topics", "partitions"}
    found = failed(examined(own_kafka))
    while set(found) != wanted:  # the broker's own metadata lags its answers; the test's limit ends this
        found = failed(examined(own_kafka))

    assert found == {
        "retention": "pin.changed.v1 keeps 1 min, 3 h are needed",
        "cleanup": "pin.features.v1: delete, not compact",
        "min.insync.replicas": "pin.aggregated.v1: 2 in-sync copies wanted of 1: nothing can be written",
        "topics": "missing: visit.observed.v1",
        "partitions": "ranking.logged.v1 has 3, not 8",
    }


def test_settings_that_the_client_does_not_take_are_a_finding() -> None:
    # Past the checks, as a file is that goes away after them.
    settings = KafkaSettings.model_construct(security_protocol="SSL", ssl_ca_location="/no/ca.pem")

    login, topics = check_kafka(gather_kafka(settings, our_topics()), NEEDS)

    assert (login.check, login.status, topics.status) == ("login", "FAIL", "SKIP")
    assert login.found.startswith("the settings: ")
