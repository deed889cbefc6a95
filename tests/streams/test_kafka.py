from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from schemas.errors import Refused, RetryableError
from schemas.topics import PIN_CHANGED
from streams.kafka import KafkaSettings, consumer_config, ensure_topics, producer_config

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
    KafkaSettings(bootstrap_servers="kafka:9092", security_protocol="SSL")
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


@pytest.mark.parametrize(
    ("login", "came"),
    [
        ({}, "no user"),
        ({"sasl_password": SECRET}, "no user"),
        ({"sasl_username": "u"}, "no password"),
        ({"sasl_username": "u", "sasl_password": ""}, "no password"),
    ],
)
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_sasl_without_user_or_password_is_refused(protocol: str, login: dict[str, str], came: str) -> None:
    with pytest.raises(Refused, match="kafka_credentials") as refused:
        KafkaSettings.model_validate({"security_protocol": protocol} | login)

    assert refused.value.came == came


def test_a_ca_file_that_cannot_be_read_is_refused_where_it_is_used(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.pem")

    with pytest.raises(Refused, match="kafka_ca"):
        KafkaSettings(security_protocol="SSL", ssl_ca_location=absent)
    KafkaSettings(ssl_ca_location=absent)


def test_topics_with_settings_that_the_client_does_not_take_are_refused() -> None:
    # Past the checks, as a file is that goes away after them.
    settings = KafkaSettings.model_construct(security_protocol="SSL", ssl_ca_location="/no/ca.pem")

    with pytest.raises(Refused, match="kafka_settings"):
        ensure_topics(settings)


class _Admin:
    """A cluster that has one topic of ours and does not say how it is configured."""

    why: BaseException

    def __init__(self, config: Any) -> None:
        pass

    def list_topics(self, timeout: float) -> Any:
        topics = {PIN_CHANGED.name: SimpleNamespace(partitions=range(PIN_CHANGED.partitions))}
        return SimpleNamespace(cluster_id="real", topics=topics)

    def describe_configs(self, resources: Any) -> Any:
        answer: Future[Any] = Future()
        answer.set_exception(self.why)
        return {resource: answer for resource in resources}


@pytest.mark.parametrize(
    ("why", "kind", "said"),
    [
        (KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)), Refused, "DescribeConfigs"),
        (KafkaException(KafkaError(KafkaError._TIMED_OUT)), RetryableError, "how pin.changed.v1"),
        (TimeoutError(), RetryableError, "how pin.changed.v1"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, why: BaseException, kind: type[Exception], said: str
) -> None:
    monkeypatch.setattr(_Admin, "why", why, raising=False)
    monkeypatch.setattr("streams.kafka.AdminClient", _Admin)

    with pytest.raises(kind, match=said):
        ensure_topics(KafkaSettings())
