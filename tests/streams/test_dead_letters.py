import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from confluent_kafka import Consumer, Message, TopicPartition

from schemas.errors import DeadLetterReason
from streams.dead_letters import UNREADABLE, headers_of, letter_headers, letter_topic
from streams.decoding import decode_source
from streams.embedded_broker import EmbeddedBroker
from streams.fetched import fetched
from streams.kafka import KafkaSettings, consumer_config
from streams.outlet import Outlet
from streams.sources import DeadLetter, enrichment_sources
from streams.topic_reader import TopicReader

LETTER = DeadLetter(
    topic="pin.changed.v1",
    row=4,
    partition=3,
    offset=17,
    ingested_at_ms=1_000,
    key=b"7",
    value=b"{",
    reason=DeadLetterReason.DECODE_ERROR,
    message="é" * 2000 + "\ud800",
)


def test_the_headers_tell_the_whole_story_and_keep_the_original_ones() -> None:
    headers = letter_headers(
        LETTER, "worker-1", [("ce_id", b"9"), ("x-dlq-reason", b"older"), ("none", None)]
    )
    assert dict(headers) == {
        "x-dlq-reason": b"decode_error",
        "x-dlq-message": "é".encode() * 1000,
        "x-dlq-topic": b"pin.changed.v1",
        "x-dlq-partition": b"3",
        "x-dlq-offset": b"17",
        "x-dlq-timestamp": b"1000",
        "x-dlq-stage": b"enrichment",
        "x-dlq-attempts": b"1",
        "x-dlq-worker": b"worker-1",
        "ce_id": b"9",
        "none": None,
    }
    assert len(headers) == 11


def test_the_tower_version_is_named_where_a_tower_was_at_work() -> None:
    headers = dict(letter_headers(replace(LETTER, model_version="a" * 64), "worker-1", None))

    assert headers["x-dlq-model-version"] == b"a" * 64
    assert "x-dlq-model-version" not in dict(letter_headers(LETTER, "worker-1", None))


@pytest.mark.parametrize(("before", "now"), [(b"1", b"2"), (b"41", b"42"), (b"many", b"1"), (None, b"1")])
def test_every_time_that_a_message_is_turned_down_is_counted(before: bytes | None, now: bytes) -> None:
    headers = dict(letter_headers(LETTER, "worker-1", [("x-dlq-attempts", before)]))

    assert headers["x-dlq-attempts"] == now


@pytest.mark.parametrize(
    ("topic", "said", "stage"),
    [
        ("pin.aggregated.v1", None, b"enrichment"),
        ("pin.embedded.v1", None, b"snapshot"),
        ("visit.observed.v1", None, b"stream"),
        ("visit.observed.v1", "windows", b"windows"),
    ],
)
def test_the_stage_is_what_turned_it_down(topic: str, said: str | None, stage: bytes) -> None:
    headers = dict(letter_headers(replace(LETTER, topic=topic), "worker-1", None, said))

    assert headers["x-dlq-stage"] == stage


class _NoText(str):
    """A header name that goes over the wire as bytes that are no UTF-8; our own client writes none."""

    def encode(self, *_: Any) -> bytes:
        return b"\xff\xfe"


def put_unreadable(address: str, topic: str) -> None:
    """One message, one of whose two header names is no UTF-8."""

    async def put() -> None:
        async with AIOKafkaProducer(bootstrap_servers=address) as producer:
            batch = producer.create_batch()
            batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 10_000)
            headers = [("ce_type", b"pin.changed.v1"), (_NoText("?"), b"1")]
            batch.append(key=b"7", value=b"{", timestamp=5, headers=headers)
            await (await producer.send_batch(batch, topic, partition=0))

    asyncio.run(put())


def test_a_message_whose_header_names_are_no_text_is_read_without_them_and_its_letter_says_so() -> None:
    topic, well = LETTER.topic, Message(topic=LETTER.topic, headers=[("ce_id", b"9")])
    # The interpreter calls what is called often in another way.
    assert all(headers_of(well) == [("ce_id", b"9")] for _ in range(1_000))
    with EmbeddedBroker([(topic, 1)]) as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        put_unreadable(broker.bootstrap_servers, topic)
        with TopicReader(settings) as reader:
            ((record,),) = reader.read(topic, {0: (0, 1)})
        consumer = Consumer(consumer_config(settings, "test"))
        consumer.assign([TopicPartition(topic, 0, 0)])
        (message,) = consumer.consume(1, 10)
        consumer.close()

    assert (record.key, record.value, record.headers) == (b"7", b"{", [UNREADABLE])
    batch = fetched(enrichment_sources(), [message], {})
    (letter,) = decode_source(batch.batches[0]).letters
    story = letter_headers(letter, "worker-1", batch.headers(topic, 0))
    assert all(name.startswith("x-dlq-") and name != UNREADABLE[0] for name, _ in story)
    said = (dict(story)["x-dlq-message"] or b"").decode()
    assert said.endswith("; its headers are lost: the name of one is no UTF-8")
    assert letter_headers(letter, "worker-1", batch.headers(topic, 0)) == story


def test_a_long_message_keeps_its_length_when_headers_are_lost() -> None:
    said = dict(letter_headers(LETTER, "worker-1", [UNREADABLE]))["x-dlq-message"] or b""

    assert len(said.decode()) == 1000


def test_a_letter_goes_to_its_own_topics_dead_letters() -> None:
    assert letter_topic(LETTER) == "pin.changed.v1.dlq"


def test_a_letter_too_large_for_kafka_is_cut_and_says_so() -> None:
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        outlet = Outlet(settings, "worker-1")
        large = replace(LETTER, value=b"x" * 1_020_000, message="too large")
        outlet.produce_letters([(large, [("ce_id", b"9")])])
        outlet.wait()

        reader = Consumer(consumer_config(settings, "test"))
        metadata = reader.list_topics("pin.changed.v1.dlq", timeout=10)
        numbers = metadata.topics["pin.changed.v1.dlq"].partitions
        reader.assign([TopicPartition("pin.changed.v1.dlq", number, 0) for number in numbers])
        (came,) = reader.consume(1, 10)
        reader.close()

    assert (came.key(), came.value()) == (b"7", b"x" * 65_536)
    headers = dict(came.headers() or [])
    assert (headers["x-dlq-offset"], headers["x-dlq-cut"]) == (b"17", b"true")
