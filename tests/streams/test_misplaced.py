import zlib
from dataclasses import replace

import numpy as np
import pytest
from confluent_kafka import Producer

from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from schemas.codec import encode
from schemas.errors import DeadLetterReason
from schemas.events import PinAggregated, PinChanged
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED
from streams.catch_up import fold_known
from streams.embedded_broker import EmbeddedBroker
from streams.enrichment import Enriched, enrich
from streams.kafka import KafkaSettings, producer_config
from streams.murmur2 import partitions_of
from streams.sources import SourceBatch
from tests.fakes import FakePinTower
from tests.streams.batches import events_batch
from tests.streams.running_worker import RunningWorker

COUNT = 64
RIGHT = int(partitions_of(np.array([5]), COUNT)[0])


def _batch(*events: tuple[int, int, PinChanged | PinAggregated], count: int | None = COUNT) -> SourceBatch:
    """Events of one source with their partition and offset."""
    made = [event for _, _, event in events]
    topic = PIN_AGGREGATED.name if isinstance(made[0], PinAggregated) else PIN_CHANGED.name
    batch = events_batch(made, topic=topic)
    return replace(
        batch,
        source=replace(batch.source, partitions=count),
        partitions=np.array([partition for partition, _, _ in events]),
        offsets=np.array([offset for _, offset, _ in events]),
    )


def _price(pin: int, price: int, title: str | None = None) -> PinChanged:
    return PinChanged.model_validate(
        {"pin_id": pin, "occurred_at_ms": 5, "price_micros": price} | ({"title": title} if title else {})
    )


def _step(store: MemoryStore, *batches: SourceBatch) -> Enriched:
    done = enrich(batches, store, [FakePinTower()], lambda: 0.0)
    store.put_many(done.pin_ids, done.records, done.tails)
    return done


def _state(store: MemoryStore, pin: int = 5) -> tuple[int, int, int]:
    records, found, _ = store.get_many(np.array([pin]))
    assert found.all()
    return tuple(int(records[name][0]) for name in ("price_micros", "changed_offset", "partition"))  # type: ignore[return-value]


def test_an_event_on_another_partition_is_a_letter_and_its_pin_stays_able_to_hear() -> None:
    store = MemoryStore(PIN_RECORD)
    _step(store, _batch((RIGHT, 1000, _price(5, 1))))

    wrong = _step(store, _batch((RIGHT + 1, 5_000_000, _price(5, 2))))
    _step(store, _batch((RIGHT, 1001, _price(5, 3))))

    (letter,) = wrong.letters
    assert (letter.reason, letter.partition, letter.offset) == (
        DeadLetterReason.KEY_MISMATCH,
        RIGHT + 1,
        5_000_000,
    )
    said = f"lies on partition {RIGHT + 1}, belongs on {RIGHT}: the producer has to hash keys with murmur2"
    assert letter.message == said
    assert wrong.pin_ids.tolist() == []
    assert _state(store) == (3, 1001, RIGHT)


def test_a_pin_that_is_new_is_looked_at_too_and_the_others_of_its_batch_are_folded() -> None:
    store = MemoryStore(PIN_RECORD)
    other = int(partitions_of(np.array([9]), COUNT)[0])
    batch = _batch(
        (RIGHT + 1, 7, _price(5, 1, "wrong")),
        (other, 4, _price(9, 2, "nine")),
        (RIGHT, 8, _price(5, 3, "right")),
        (RIGHT + 1, 9, _price(5, 4)),
    )
    done = _step(store, batch)
    assert [letter.row for letter in done.letters] == [0, 3]
    assert done.pin_ids.tolist() == [5, 9]
    assert done.tails == [b'"right"', b'"nine"']
    assert (_state(store), _state(store, 9)) == ((3, 8, RIGHT), (2, 4, other))
    assert done.redelivered == {PIN_CHANGED.name: 0}


def test_each_source_is_looked_at() -> None:
    store = MemoryStore(PIN_RECORD)
    visits = PinAggregated(pin_id=5, occurred_at_ms=9, offsite_visits=[1, 2, 3, 4])
    done = _step(store, _batch((RIGHT, 0, _price(5, 1))), _batch((RIGHT - 1, 3, visits)))
    assert [(one.topic, one.row) for one in done.letters] == [(PIN_AGGREGATED.name, 0)]
    assert done.records["aggregated_offset"].tolist() == [-1]


def test_a_silent_event_on_another_partition_is_not_folded_either() -> None:
    store = MemoryStore(PIN_RECORD)
    batch = _batch((RIGHT + 1, 7, _price(5, 1)), (RIGHT, 0, _price(5, 2)))
    folded = fold_known([batch], store, [FakePinTower()], lambda: 0.0, None)
    store.put_many(folded.pin_ids, folded.records, folded.tails)
    assert _state(store) == (2, 0, RIGHT)


def test_a_worker_turns_down_what_another_hash_has_misplaced() -> None:
    with EmbeddedBroker() as broker:
        kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        for partitioner in ("consistent", "murmur2"):
            producer = Producer(producer_config(kafka, {"partitioner": partitioner}))
            producer.produce(PIN_CHANGED.name, encode(_price(5, 1)), key=b"5")
            assert producer.flush(10) == 0
        assert zlib.crc32(b"5") % PIN_CHANGED.partitions != RIGHT
        running = RunningWorker(kafka, MemoryStore(PIN_RECORD), [FakePinTower()])
        running.wait("dead_letters_total", 1, topic=PIN_CHANGED.name, reason="key_mismatch")
        running.wait("events_total", 1, topic=PIN_CHANGED.name, result="applied")
        running.stop()


def test_without_a_number_of_partitions_pins_may_lie_anywhere() -> None:
    store = MemoryStore(PIN_RECORD)
    done = _step(store, _batch((RIGHT + 1, 7, _price(5, 1)), count=None))
    assert done.letters == []
    assert _state(store) == (1, 7, RIGHT + 1)


def test_pins_that_lie_where_they_were_are_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(PIN_RECORD)
    _step(store, _batch((RIGHT, 0, _price(5, 1))))
    monkeypatch.setattr("streams.misplaced.partitions_of", None)
    _step(store, _batch((RIGHT, 1, _price(5, 2))))
    assert _state(store) == (2, 1, RIGHT)
