import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # not in __all__

from schemas.errors import Refused
from schemas.topics import PIN_CHANGED
from streams.kafka import KafkaSettings, consumer_config, ensure_topics, producer_config
from streams.local_kafka import local_kafka

SECRET = "hunter2-is-no-password"


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
@pytest.mark.parametrize(
    "host", ["kafka:9092", "127.0.0.1:9092,10.0.0.1:9092", "PLAINTEXT://b:1", "[2001:db8::1]:1"]
)
def test_an_unencrypted_connection_to_another_host_is_refused(protocol: str, host: str) -> None:
    with pytest.raises(Refused, match="kafka_plaintext"):
        KafkaSettings.model_validate({"bootstrap_servers": host, "security_protocol": protocol})


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9092", "localhost:9092", "[::1]:9092", "127.0.0.1:1,localhost:2"]
)
def test_an_unencrypted_connection_to_this_host_is_allowed(host: str) -> None:
    assert consumer_config(KafkaSettings(bootstrap_servers=host), "g")["bootstrap.servers"] == host


def test_another_host_is_allowed_when_encrypted_or_said_so() -> None:
    KafkaSettings(bootstrap_servers="kafka:9092", security_protocol="SASL_SSL")
    KafkaSettings(bootstrap_servers="kafka:9092", allow_plaintext=True)


def test_the_password_reaches_librdkafka_and_no_repr() -> None:
    settings = KafkaSettings.model_validate(
        {
            "bootstrap_servers": "k:1",
            "security_protocol": "SASL_SSL",
            "sasl_username": "u",
            "sasl_password": SECRET,
        }
    )
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()
    assert producer_config(settings)["sasl.password"] == SECRET


def test_consumers_commit_by_hand_and_notice_a_dead_member_in_ten_seconds() -> None:
    config = consumer_config(KafkaSettings(), "g", {"fetch.wait.max.ms": 7})
    assert (config["group.id"], config["enable.auto.commit"], config["enable.auto.offset.store"]) == (
        "g",
        False,
        False,
    )
    assert (config["session.timeout.ms"], config["heartbeat.interval.ms"]) == (10_000, 3_000)
    assert config["partition.assignment.strategy"] == "range"
    assert config["fetch.wait.max.ms"] == 7


def test_producers_are_idempotent_and_hash_keys_as_other_clients_do() -> None:
    config = producer_config(KafkaSettings())
    assert (config["enable.idempotence"], config["acks"], config["partitioner"]) == (
        True,
        "all",
        "murmur2_random",
    )


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    home = os.environ.get("KAFKA_HOME")
    if home is None:
        pytest.skip("KAFKA_HOME names no Kafka distribution")
    with local_kafka(Path(home), tmp_path_factory.mktemp("kafka")) as address:
        yield KafkaSettings(bootstrap_servers=address)


@pytest.mark.kafka
def test_topics_are_created_once_verified_after_and_refused_when_they_differ(kafka: KafkaSettings) -> None:
    created = ensure_topics(kafka).created
    assert {"pin.changed.v1", "pin.embedded.v1", "pin.changed.v1.dlq"} <= set(created)
    assert sorted(ensure_topics(kafka).verified) == sorted(created)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.delete_topics([PIN_CHANGED.name])[PIN_CHANGED.name].result(10)
    admin.create_topics([NewTopic(PIN_CHANGED.name, 5, 1)])[PIN_CHANGED.name].result(10)
    while len(admin.list_topics(PIN_CHANGED.name, timeout=10).topics[PIN_CHANGED.name].partitions) != 5:
        pass  # the broker's own metadata lags its answers
    with pytest.raises(Refused, match=r"pin\.changed\.v1 with 32 partitions"):
        ensure_topics(kafka)
