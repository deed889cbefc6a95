"""`ensure_topics` on a real Kafka: what it asks for is what is there."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but not in __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
)

from schemas.errors import Refused
from schemas.topics import DEAD_LETTERED, PIN_CHANGED, PIN_FEATURES, TOPICS
from streams.kafka import ensure_topics
from tests.kafka_fixture import KafkaUnderTest

pytestmark = pytest.mark.kafka

LETTERS = {topic.dlq: topic for topic in DEAD_LETTERED}
DECLARED = [*TOPICS, *LETTERS]


@pytest.fixture
def admin(kafka: KafkaUnderTest) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})


@pytest.fixture
def altered(kafka: KafkaUnderTest, admin: AdminClient) -> Iterator[AdminClient]:
    """For a test that alters topics, on a broker of ours only; afterwards they are as declared."""
    kafka.ours()
    yield admin
    _set_policy(admin, PIN_FEATURES.name, "compact")
    if _partitions(admin, PIN_CHANGED.name) != PIN_CHANGED.partitions:
        _delete(admin, PIN_CHANGED.name)
    ensure_topics(kafka.settings("topics"))


def _partitions(admin: AdminClient, name: str) -> int:
    topics = admin.list_topics(timeout=10).topics
    return len(topics[name].partitions) if name in topics else 0


def _config(admin: AdminClient, name: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    entries = admin.describe_configs([resource])[resource].result(15)
    return {entry: str(one.value) for entry, one in entries.items()}


def _set_policy(admin: AdminClient, name: str, policy: str) -> None:
    entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(15)
    while _config(admin, name)["cleanup.policy"] != policy:
        pass  # the broker's own metadata lags its answers


def _delete(admin: AdminClient, name: str) -> None:
    admin.delete_topics([name])[name].result(15)
    while _partitions(admin, name):
        pass  # the broker's own metadata lags its answers


def test_every_declared_topic_is_there_with_its_partitions(kafka: KafkaUnderTest, admin: AdminClient) -> None:
    there = admin.list_topics(timeout=10).topics
    wanted = {name: topic.partitions for name, topic in TOPICS.items()} | dict.fromkeys(LETTERS, 1)
    assert {name: len(there[name].partitions) for name in wanted if name in there} == wanted


@pytest.mark.parametrize("name", TOPICS)
def test_topics_are_compacted_or_kept_for_as_long_as_declared(name: str, admin: AdminClient) -> None:
    config, topic = _config(admin, name), TOPICS[name]
    if topic.compacted:
        # By time nothing goes: the newest row of a key is kept for ever.
        assert config["cleanup.policy"] == "compact"
    else:
        assert (config["cleanup.policy"], config["retention.ms"]) == ("delete", str(topic.retention_ms))


@pytest.mark.parametrize("name", LETTERS)
def test_dead_letters_are_never_deleted(name: str, admin: AdminClient) -> None:
    config = _config(admin, name)
    assert (config["cleanup.policy"], config["retention.ms"]) == ("delete", "-1")


def test_a_second_run_creates_nothing_and_verifies_all(kafka: KafkaUnderTest) -> None:
    report = ensure_topics(kafka.settings("topics"))
    assert (report.created, report.skipped) == ([], None)
    assert sorted(report.verified) == sorted(DECLARED)


def test_a_missing_topic_is_created_and_the_others_are_verified(
    kafka: KafkaUnderTest, altered: AdminClient
) -> None:
    _delete(altered, PIN_CHANGED.name)
    report = ensure_topics(kafka.settings("topics"))
    assert report.created == [PIN_CHANGED.name]
    assert sorted(report.verified) == sorted(set(DECLARED) - {PIN_CHANGED.name})


def test_processes_that_start_at_once_create_each_topic_once(
    kafka: KafkaUnderTest, altered: AdminClient
) -> None:
    for name in (PIN_CHANGED.name, PIN_CHANGED.dlq):
        _delete(altered, name)
    with ThreadPoolExecutor() as threads:
        reports = list(threads.map(lambda _: ensure_topics(kafka.settings("topics")), range(4)))
    created = [name for report in reports for name in report.created]
    assert sorted(created) == sorted((PIN_CHANGED.name, PIN_CHANGED.dlq))
    for report in reports:
        assert sorted(report.created + report.verified) == sorted(DECLARED)


def test_a_topic_that_the_metadata_does_not_show_yet_is_waited_for_and_verified(
    kafka: KafkaUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class LaggingAdmin(AdminClient):
        def list_topics(self, *arguments: Any, **options: Any) -> Any:
            metadata = super().list_topics(*arguments, **options)
            asked.append(len(metadata.topics))
            if len(asked) <= 2:
                del metadata.topics[PIN_CHANGED.name]
            return metadata

    monkeypatch.setattr("streams.kafka.AdminClient", LaggingAdmin)
    report = ensure_topics(kafka.settings("topics"))
    assert len(asked) == 3
    assert report.created == []
    assert sorted(report.verified) == sorted(DECLARED)


def test_a_topic_with_other_partitions_is_refused_and_left_alone(
    kafka: KafkaUnderTest, altered: AdminClient
) -> None:
    _delete(altered, PIN_CHANGED.name)
    altered.create_topics([NewTopic(PIN_CHANGED.name, 5, 1)])[PIN_CHANGED.name].result(15)
    while _partitions(altered, PIN_CHANGED.name) != 5:
        pass  # the broker's own metadata lags its answers
    with pytest.raises(Refused, match=r"pin\.changed\.v1 with 32 partitions"):
        ensure_topics(kafka.settings("topics"))
    assert _partitions(altered, PIN_CHANGED.name) == 5


def test_a_dead_letter_topic_may_have_any_number_of_partitions(
    kafka: KafkaUnderTest, altered: AdminClient
) -> None:
    altered.create_partitions([NewPartitions(PIN_CHANGED.dlq, 3)])[PIN_CHANGED.dlq].result(15)
    while _partitions(altered, PIN_CHANGED.dlq) != 3:
        pass  # the broker's own metadata lags its answers
    assert PIN_CHANGED.dlq in ensure_topics(kafka.settings("topics")).verified
    _delete(altered, PIN_CHANGED.dlq)


def test_state_on_a_topic_that_is_not_compacted_is_refused(
    kafka: KafkaUnderTest, altered: AdminClient
) -> None:
    _set_policy(altered, PIN_FEATURES.name, "delete")
    with pytest.raises(Refused, match=r"pin\.features\.v1 with 32 partitions, cleanup\.policy=compact"):
        ensure_topics(kafka.settings("topics"))
    assert _config(altered, PIN_FEATURES.name)["cleanup.policy"] == "delete"
