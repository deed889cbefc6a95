from dataclasses import replace

import pytest
from confluent_kafka import Consumer, TopicPartition

from schemas.errors import DeadLetterReason
from streams.dead_letters import letter_headers, letter_topic
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, consumer_config
from streams.outlet import Outlet
from streams.sources import DeadLetter

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
