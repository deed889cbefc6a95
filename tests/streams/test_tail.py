from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from schemas.errors import Refused, RetryableError
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, producer_config
from streams.tail import TailJob, tail
from streams.topic_reader import TopicReader

TOPIC = "pin.changed.v1"


@pytest.fixture(scope="module")
def settings() -> Iterator[KafkaSettings]:
    with EmbeddedBroker([(TOPIC, 2), ("pin.embedded.v1", 1)]) as broker:
        running = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        producer = Producer(producer_config(running))
        for number in range(30):
            producer.produce(
                TOPIC, b"v%d" % number, b"%d" % (number % 3), number % 2, timestamp=1_000 + number
            )
        producer.flush()
        yield running


def values(settings: KafkaSettings, job: TailJob) -> list[bytes | None]:
    with TopicReader(settings) as reader:
        return [one.value for one in tail(reader, job, lambda: False)]


def test_the_newest_messages_come_in_the_order_of_their_times(settings: KafkaSettings) -> None:
    assert values(settings, TailJob(TOPIC, limit=3)) == [b"v27", b"v28", b"v29"]
    assert len(values(settings, TailJob(TOPIC))) == 10


def test_from_the_beginning_everything_comes_up_to_the_limit(settings: KafkaSettings) -> None:
    assert set(values(settings, TailJob(TOPIC, "beginning"))) == {b"v%d" % n for n in range(30)}
    assert len(values(settings, TailJob(TOPIC, "beginning", limit=4))) == 4


def test_an_offset_is_one_of_each_partition(settings: KafkaSettings) -> None:
    assert sorted(values(settings, TailJob(TOPIC, 14)), key=str) == [b"v28", b"v29"]
    assert values(settings, TailJob(TOPIC, 13, partition=1)) == [b"v27", b"v29"]
    assert values(settings, TailJob(TOPIC, 99)) == []


def test_a_key_is_found_however_old_its_last_message_is(settings: KafkaSettings) -> None:
    assert values(settings, TailJob(TOPIC, key=b"0", limit=2)) == [b"v24", b"v27"]
    assert values(settings, TailJob(TOPIC, key=b"9")) == []


def test_following_goes_on_with_what_comes_and_ends_when_told(settings: KafkaSettings) -> None:
    topic, producer = "pin.embedded.v1", Producer(producer_config(settings))
    came: list[bytes | None] = []

    def send(value: bytes) -> None:
        producer.produce(topic, value)
        producer.flush()

    send(b"first")
    with TopicReader(settings) as reader:
        for one in tail(reader, TailJob(topic, follow=True), lambda: len(came) == 3):
            came.append(one.value)
            send(b"after %d" % len(came))

    assert came == [b"first", b"after 1", b"after 2"]


def test_what_is_not_there_is_said(settings: KafkaSettings) -> None:
    with pytest.raises(Refused, match="unknown_topic"):
        values(settings, TailJob("pin.chnged.v1"))
    with pytest.raises(Refused, match="0 to 1"):
        values(settings, TailJob(TOPIC, partition=2))


def test_a_broker_that_is_away_is_said_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.topic_reader.ASK_SECONDS", 0.5)

    with pytest.raises(RetryableError, match=r"127\.0\.0\.1:9 is out of reach"):
        values(KafkaSettings(bootstrap_servers="127.0.0.1:9"), TailJob(TOPIC))
