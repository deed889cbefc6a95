import pytest

from schemas.errors import Refused
from streams.kafka import KafkaSettings, consumer_config, producer_config

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
