import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.errors import RetryableError
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, consumer_config, producer_config
from streams.step_source import KafkaStepSource, PartitionStanding


def test_it_tells_how_partitions_stand_and_reads_spans_again() -> None:
    with EmbeddedBroker([("visit.observed.v1", 2)]) as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        producer = Producer(producer_config(settings))
        for number in range(6):
            producer.produce(
                "visit.observed.v1", b"%d" % number, key=b"k", partition=1, headers=[("ce_id", b"9")]
            )
        assert producer.flush(10) == 0
        group = Consumer(consumer_config(settings, "g"))
        group.commit(offsets=[TopicPartition("visit.observed.v1", 1, 4)], asynchronous=False)
        group.close()

        source = KafkaStepSource(settings, "g")
        lanes = source.partitions(["visit.observed.v1", "not.there"])
        assert sorted(lanes) == [("visit.observed.v1", 0), ("visit.observed.v1", 1)]
        assert source.standing(lanes) == {
            lanes[0]: PartitionStanding(0, 0, None),
            lanes[1]: PartitionStanding(0, 6, 4),
        } or (
            source.standing(lanes)
            == {lanes[1]: PartitionStanding(0, 0, None), lanes[0]: PartitionStanding(0, 6, 4)}
        )
        read = [one for batch in source.read("visit.observed.v1", {0: (0, 0), 1: (2, 4)}) for one in batch]
        source.close()

    assert [(one.partition, one.offset, one.key, one.value) for one in read] == [
        (1, 2, b"k", b"2"),
        (1, 3, b"k", b"3"),
    ]
    assert read[0].headers == [("ce_id", b"9")]
    assert read[0].ingested_at_ms > 1_600_000_000_000


def test_a_broker_that_is_not_there_is_a_reason_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.step_source._ASK_SECONDS", 0.3)
    source = KafkaStepSource(KafkaSettings(bootstrap_servers="127.0.0.1:1"), "g")
    with pytest.raises(RetryableError):
        source.partitions(["visit.observed.v1"])
    with pytest.raises(RetryableError):
        source.standing([("visit.observed.v1", 0)])
    assert source.standing([]) == {}
    source.close()
