from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.codec import encode
from schemas.errors import DeadLetterReason, Refused, RetryableError
from schemas.topics import PIN_CHANGED
from streams.dead_letters import letter_headers
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, producer_config
from streams.letters import (
    Letter,
    LetterFilter,
    Reading,
    goes_back_to,
    is_mark,
    marked_place,
    parse_letter,
    read_letters,
    source_topic,
    would_fail_again,
)
from streams.sources import DeadLetter
from streams.topic_reader import Record, TopicReader
from tests.schemas.examples import pin_changed, pin_embedded
from tests.streams.letters_on_a_topic import DLQ, broken, letter, put_letters

SECOND = 1_000


@pytest.fixture(scope="module")
def settings() -> Iterator[KafkaSettings]:
    with EmbeddedBroker([(DLQ, 4), (PIN_CHANGED.name, 4), ("pin.aggregated.v1.dlq", 2)]) as broker:
        yield KafkaSettings(bootstrap_servers=broker.bootstrap_servers)


def lying(dead: DeadLetter, headers: list[tuple[str, bytes | None]] | None = None) -> Letter:
    """The letter as it is read back."""
    return parse_letter(
        Record(dead.topic + ".dlq", 2, 5, 9_000, dead.key, dead.value, letter_headers(dead, "w", headers))
    )


def test_letters_come_back_as_they_went_in(settings: KafkaSettings) -> None:
    put_letters(settings, [letter(7), broken(8)], [("ce_source", b"catalogue"), ("x", None)])

    with TopicReader(settings) as reader:
        seven, eight = sorted(read_letters(reader, DLQ), key=lambda one: one.key or b"")

    assert (seven.topic, seven.source_partition, seven.source_offset) == (PIN_CHANGED.name, 7, 107)
    assert (seven.reason, seven.message, seven.stage, seven.worker) == (
        "model_error",
        "no finite vector",
        "enrichment",
        "worker-1",
    )
    assert (seven.key, seven.value) == (b"7", encode(pin_changed(pin_id=7, bid_micros=7)))
    assert seven.headers == [("ce_source", b"catalogue"), ("x", None)]
    assert (seven.ce_source, seven.attempts, seven.whole, seven.replayed) == ("catalogue", 1, True, False)
    assert seven.age_ms(1_000_107) == 100
    assert (eight.value, eight.reason) == (b"{", "decode_error")


def test_a_marked_letter_is_replayed_and_its_mark_is_no_letter(settings: KafkaSettings) -> None:
    topic = "pin.aggregated.v1"
    producer = Producer(producer_config(settings))
    for key in (b"1", b"2", b"3"):
        producer.produce(topic + ".dlq", b"", key, 1, headers=[("x-dlq-reason", b"decode_error")])
    producer.produce(topic + ".dlq", b"", b"1/1", 1, headers=[("x-dlq-replayed", b"1/1")])
    # Of another partition, so it means another letter.
    producer.produce(topic + ".dlq", b"", b"0/2", 1, headers=[("x-dlq-replayed", b"0/2")])
    producer.flush()

    seen: list[tuple[int, int]] = []
    with TopicReader(settings) as reader:
        reading = Reading(notice=lambda now: seen.append((now.done, now.total)))
        letters = list(read_letters(reader, topic, reading=reading))

    assert [(one.key, one.replayed) for one in letters] == [(b"1", False), (b"2", True), (b"3", False)]
    assert seen[-1] == (10, 10)


class BetweenLeaders:
    """An admin client whose cluster moves the partitions' leader for the first few questions."""

    def __init__(self, admin: Any, code: int, times: int) -> None:
        self._admin, self._code, self.left = admin, code, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._admin, name)

    def list_offsets(self, asked: Any, **options: Any) -> Any:
        if not self.left:
            return self._admin.list_offsets(asked, **options)
        self.left -= 1
        answer: Future[Any] = Future()
        answer.set_exception(KafkaException(KafkaError(self._code)))
        return dict.fromkeys(asked, answer)


def test_a_partition_between_two_leaders_is_asked_again(settings: KafkaSettings) -> None:
    put_letters(settings, [letter(70)])
    with TopicReader(settings) as reader:
        there = reader.spans(DLQ)
        moving: Any = BetweenLeaders(reader._admin, KafkaError.NOT_LEADER_FOR_PARTITION, 3)
        reader._admin = moving
        assert reader.spans(DLQ) == there
        assert moving.left == 0
        denied: Any = BetweenLeaders(moving._admin, KafkaError.TOPIC_AUTHORIZATION_FAILED, 2)
        reader._admin = denied
        with pytest.raises(RetryableError, match="TOPIC_AUTHORIZATION_FAILED"):
            reader.spans(DLQ)
        assert denied.left == 1


def test_reading_a_topic_that_is_not_there_says_so_and_creates_none(settings: KafkaSettings) -> None:
    with TopicReader(settings) as reader:
        with pytest.raises(Refused, match=r"topic visit\.observed\.v1\.dlq on 127"):
            next(read_letters(reader, "visit.observed.v1"))
        assert "visit.observed.v1.dlq" not in reader.topics()


def test_topics_are_named_with_or_without_dlq() -> None:
    assert source_topic("pin.changed.v1.dlq") == source_topic("pin.changed.v1") == "pin.changed.v1"
    with pytest.raises(Refused, match="unknown_topic"):
        source_topic("pin.changed")


def test_a_letter_without_content_is_a_letter_and_a_message_put_back_is_no_mark() -> None:
    tombstone = lying(letter(7, value=None, reason=DeadLetterReason.DECODE_ERROR))
    assert (tombstone.value, tombstone.reason) == (None, "decode_error")
    place = ("x-dlq-replayed", b"3/17")
    assert not is_mark(Record(DLQ, 0, 0, 0, None, None, [("x-dlq-reason", b"too_large"), place]))
    assert not is_mark(Record(DLQ, 0, 0, 0, None, b"{}", [place]))
    assert marked_place(Record(DLQ, 0, 0, 0, None, b"", [place])) == (3, 17)
    assert marked_place(Record(DLQ, 0, 0, 0, None, b"", [("x-dlq-replayed", b"three")])) is None


def test_a_record_with_headers_of_nobody_is_still_shown() -> None:
    foreign = parse_letter(Record(DLQ, 2, 5, 9_000, None, b"?", [("x-dlq-offset", b"\xff-1")]))

    assert (foreign.topic, foreign.reason, foreign.source_offset) == (PIN_CHANGED.name, "", -1)
    assert foreign.ingested_at_ms == 9_000


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (LetterFilter(), True),
        (LetterFilter(reasons=frozenset({"model_error", "too_large"})), True),
        (LetterFilter(reasons=frozenset({"too_large"})), False),
        (LetterFilter(partition=2, offset=5), True),
        (LetterFilter(partition=2, offset=6), False),
        (LetterFilter(partition=0), False),
        (LetterFilter(ce_source="catalogue"), True),
        (LetterFilter(ce_source="bids"), False),
        (LetterFilter(max_age_seconds=10), True),
        (LetterFilter(max_age_seconds=9.999), False),
        (LetterFilter(min_age_seconds=10), True),
        (LetterFilter(min_age_seconds=10.001), False),
    ],
)
def test_a_filter_takes_what_it_names(wanted: LetterFilter, takes: bool) -> None:
    came = lying(letter(0), [("ce_source", b"catalogue")])

    assert wanted.takes(came, 1_000_000 + 10 * SECOND) is takes


def test_a_reason_that_there_is_not_is_refused() -> None:
    with pytest.raises(Refused, match="decode_error, schema_invalid"):
        LetterFilter(reasons=frozenset({"decode_eror"}))


@pytest.mark.parametrize(
    ("dead", "headers", "why"),
    [
        (letter(7), None, None),
        (letter(7), [("ce_type", b"pin.changed.v9")], None),
        (broken(7), None, "decode_error"),
        (broken(7), [("ce_type", b"pin.changed.v9")], "ce_type is pin.changed.v9"),
        (letter(7, value=None), None, "tombstone"),
        (letter(7, value=b'{"pin_id":7}'), None, "schema_invalid: occurred_at_ms"),
        (letter(7, value=b"\x00\x00\x00\x00\x01{}"), None, "schema registry"),
        (letter(7, key=b"8"), None, "key_mismatch: the key is b'8', expected b'7'"),
        (letter(7, key=None), None, "key_mismatch"),
        (
            letter(7, topic="pin.embedded.v1", value=encode(pin_embedded()), key=b"7:" + b"a" * 16),
            None,
            None,
        ),
        (letter(7, topic="pin.embedded.v1", value=encode(pin_embedded())), None, "key_mismatch"),
    ],
)
def test_what_would_fail_again_is_foreseen(
    dead: DeadLetter, headers: list[tuple[str, bytes | None]] | None, why: str | None
) -> None:
    foreseen = would_fail_again(lying(dead, headers))

    assert foreseen is None if why is None else why in (foreseen or "")


@pytest.mark.parametrize(
    ("topic", "key", "lay_on", "goes_to"),
    [
        ("pin.changed.v1", b"7", 20, -1),
        ("pin.changed.v1", None, 20, 20),
        ("pin.embedded.v1", b"7:aaaaaaaaaaaaaaaa", 20, 20),
        ("ranking.logged.v1", b"r1", 31, 31),
        ("ranking.logged.v1", b"r1", 32, -1),
        ("ranking.logged.v1", b"r1", -1, -1),
        ("nobody.knows.v1", b"7", 20, 20),
    ],
)
def test_a_pins_event_goes_back_by_its_key_and_any_other_message_where_it_lay(
    topic: str, key: bytes | None, lay_on: int, goes_to: int
) -> None:
    assert goes_back_to(lying(letter(7, topic=topic, key=key, partition=lay_on)), 32) == goes_to


def test_half_a_letter_is_never_fit_for_a_replay() -> None:
    dead = letter(7)
    headers = [*letter_headers(dead, "w", None), ("x-dlq-cut", b"true")]
    half = parse_letter(Record(DLQ, 0, 0, 0, dead.key, dead.value, headers))

    assert not half.whole
    assert "only its beginning" in (would_fail_again(half) or "")
