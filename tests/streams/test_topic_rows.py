from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from schemas.codec import encode
from schemas.skew import SkewAlerted
from schemas.topics import SKEW_ALERTED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, producer_config
from streams.topic_reader import TopicReader
from streams.topic_rows import RowsReading, every_row, newest_rows


@pytest.fixture
def kafka() -> Iterator[KafkaSettings]:
    with EmbeddedBroker([(SKEW_ALERTED.name, 2)]) as broker:
        yield KafkaSettings(bootstrap_servers=broker.bootstrap_servers)


def alert(tier: str, share: float) -> bytes:
    return encode(
        SkewAlerted(
            tier=tier,
            kind="mixed_responses",
            state="raised",
            share=share,
            threshold=0.0,
            versions={},
            since_ms=1,
            occurred_at_ms=2,
        )
    )


def test_the_newest_row_of_each_key_stands_and_a_tombstone_takes_it_away(kafka: KafkaSettings) -> None:
    producer = Producer(producer_config(kafka))
    written: list[tuple[bytes, bytes | None, int]] = [
        (b"a", alert("a", 0.1), 0),
        (b"b", alert("b", 0.2), 0),
        (b"a", alert("a", 0.3), 0),
        (b"bad", b"{", 0),
        (b"c", alert("c", 0.4), 1),
        (b"d", alert("d", 0.5), 1),
        (b"d", None, 1),
    ]
    for key, value, partition in written:
        producer.produce(SKEW_ALERTED.name, value, key, partition=partition)
    producer.flush()

    newest, every = RowsReading(), RowsReading()
    with TopicReader(kafka) as reader:
        found = list(newest_rows(reader, SKEW_ALERTED, reading=newest))
        rows = list(every_row(reader, SKEW_ALERTED, reading=every))

    shown = [[(one.tier, one.share) for one in rows if isinstance(one, SkewAlerted)] for rows in found]
    assert shown == [[("b", 0.2), ("a", 0.3)], [("c", 0.4)]]
    assert (newest.done, newest.total, newest.unreadable) == (7, 7, 1)
    assert (len(rows), every.unreadable) == (5, 2)
