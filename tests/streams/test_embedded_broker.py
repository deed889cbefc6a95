import signal
import subprocess
import sys

from confluent_kafka import Consumer, Producer

from schemas.topics import TOPICS
from streams.embedded_broker import EmbeddedBroker, default_topics
from streams.kafka import KafkaSettings, consumer_config, ensure_topics, producer_config

_PRODUCE = """
import sys
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": sys.argv[1]})
for number in range(int(sys.argv[2])):
    producer.produce("pin.changed.v1", b"%d" % number)
producer.flush(30)
"""
_CONSUME_FOR_EVER = """
import sys
from confluent_kafka import Consumer
consumer = Consumer({"bootstrap.servers": sys.argv[1], "group.id": "g", "auto.offset.reset": "earliest"})
consumer.subscribe(["pin.changed.v1"])
while not consumer.poll(1.0):
    pass
print("reading", flush=True)
while True:
    consumer.poll(1.0)
"""


def _read(address: str, group: str, wanted: int) -> list[bytes]:
    settings = KafkaSettings(bootstrap_servers=address, session_timeout_ms=1_000, heartbeat_interval_ms=300)
    consumer = Consumer(consumer_config(settings, group))
    consumer.subscribe(["pin.changed.v1"])
    values: list[bytes] = []
    while len(values) < wanted:
        values += [one.value() or b"" for one in consumer.consume(500, 0.5) if not one.error()]
    consumer.close()
    return values


def test_every_topic_of_the_system_is_there_with_its_partitions() -> None:
    assert {name: default_topics()[name] for name in TOPICS} == {
        name: topic.partitions for name, topic in TOPICS.items()
    }
    with EmbeddedBroker() as broker:
        found = Producer({"bootstrap.servers": broker.bootstrap_servers}).list_topics(timeout=10).topics
        assert {name: len(one.partitions) for name, one in found.items()} == default_topics()


def test_other_processes_produce_to_it_and_this_one_reads() -> None:
    with EmbeddedBroker() as broker:
        started = [
            subprocess.Popen([sys.executable, "-c", _PRODUCE, broker.bootstrap_servers, "300"])
            for _ in range(2)
        ]
        assert [one.wait(60) for one in started] == [0, 0]
        assert len(_read(broker.bootstrap_servers, "g", 600)) == 600


def test_it_outlives_a_client_that_is_killed() -> None:
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        producer = Producer(producer_config(settings))
        producer.produce("pin.changed.v1", b"before")
        producer.flush(10)
        command = [sys.executable, "-c", _CONSUME_FOR_EVER, broker.bootstrap_servers]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"reading\n"
            client.send_signal(signal.SIGKILL)
        producer.produce("pin.changed.v1", b"after")
        producer.flush(10)
        assert sorted(_read(broker.bootstrap_servers, "another", 2)) == [b"after", b"before"]


def test_topics_are_left_alone_on_it_and_the_report_says_why() -> None:
    with EmbeddedBroker() as broker:
        report = ensure_topics(KafkaSettings(bootstrap_servers=broker.bootstrap_servers))
    assert report.created == []
    assert report.skipped is not None
    assert "demo and tests only" in report.skipped


def test_closing_twice_is_harmless() -> None:
    broker = EmbeddedBroker([("only", 1)])
    broker.close()
    broker.close()
