"""A broker of our own, killed and started again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # not in __all__

from streams.kafka import KafkaSettings, producer_config
from streams.local_kafka import LocalKafka
from tests.streams.enrichment_oracle import read_all

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def broker(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with LocalKafka(kafka_home, tmp_path_factory.mktemp("own"), {"num.partitions": "3"}) as one:
        yield one


def _write(settings: KafkaSettings, topic: str, value: bytes) -> None:
    producer = Producer(producer_config(settings))
    producer.produce(topic, value, key=b"1")
    assert producer.flush(30) == 0


def test_what_a_killed_broker_acknowledged_is_there_when_it_is_back_on_its_address(
    broker: LocalKafka,
) -> None:
    address = broker.bootstrap_servers
    settings = KafkaSettings(bootstrap_servers=address)
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    admin.create_topics([NewTopic("kept", 2, 1)])["kept"].result(15)
    _write(settings, "kept", b"before")
    broker.kill()
    assert not broker.running
    broker.start()
    assert (broker.running, broker.bootstrap_servers) == (True, address)
    _write(settings, "kept", b"after")
    assert [one.value() for one in read_all(settings, "kept")] == [b"before", b"after"]


def test_a_stopped_broker_restarts_and_starting_one_that_runs_changes_nothing(broker: LocalKafka) -> None:
    broker.stop()
    assert not broker.running
    broker.restart()
    broker.start()
    _write(KafkaSettings(bootstrap_servers=broker.bootstrap_servers), "kept", b"again")


def test_options_replace_lines_of_the_configuration(broker: LocalKafka) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    admin.create_topics([NewTopic("by-default", -1, 1)])["by-default"].result(15)
    assert len(admin.list_topics("by-default", timeout=10).topics["by-default"].partitions) == 3


def test_a_broker_that_cannot_start_says_what_its_log_ends_with(kafka_home: Path, tmp_path: Path) -> None:
    broken = LocalKafka(kafka_home, tmp_path)
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(RuntimeError, match=r"did not start(.|\n)*meta\.properties"):
        broken.start()
    assert not broken.running


def test_options_that_kafka_refuses_are_named(kafka_home: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"log\.segment\.bytes"):
        LocalKafka(kafka_home, tmp_path, {"log.segment.bytes": "none"})
