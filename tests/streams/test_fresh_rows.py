"""What a server reads beside its release: rows, states, ends and silences of a real broker."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from confluent_kafka import Producer

from features.pin_state import STATUS_CODES, empty_records
from index.delta_fold import NO_VERSION, FreshRows
from index.row_files import ATTRIBUTES
from schemas.errors import RetryableError
from schemas.manifests import Offsets
from schemas.topics import PIN_EMBEDDED, PIN_FEATURES
from streams.embedded_broker import EmbeddedBroker
from streams.fresh_rows import KafkaFreshRows, attribute_rows
from streams.kafka import KafkaSettings, producer_config
from streams.state_rows import feature_rows
from tests.schemas.examples import VERSION_A, VERSION_B

from .embedded_rows_on_a_topic import DIMENSION, row

EMBEDDED, FEATURES = PIN_EMBEDDED.name, PIN_FEATURES.name
DIMENSIONS = {VERSION_A: DIMENSION}
TURNS = 200


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker([(EMBEDDED, 2), (FEATURES, 1)]) as running:
        yield running


@pytest.fixture
def fresh(broker: EmbeddedBroker) -> Iterator[KafkaFreshRows]:
    feed = KafkaFreshRows(KafkaSettings(bootstrap_servers=broker.bootstrap_servers))
    yield feed
    feed.close()


def put(broker: EmbeddedBroker, topic: str, *messages: tuple[bytes, bytes], partition: int = 0) -> None:
    producer = Producer(producer_config(KafkaSettings(bootstrap_servers=broker.bootstrap_servers)))
    for key, value in messages:
        producer.produce(topic, key=key, value=value, partition=partition)
    assert producer.flush(10) == 0


def read_to(fresh: KafkaFreshRows, ends: Offsets) -> FreshRows:
    """Everything up to these ends, as one."""
    found, upto = FreshRows([], {}), dict[str, dict[int, int]]()
    for _ in range(TURNS):
        read = fresh.read(0.1, DIMENSIONS)
        for topic, offsets in read.upto.items():
            upto.setdefault(topic, {}).update(offsets)
        found = FreshRows([*found.batches, *read.batches], upto, found.unreadable + read.unreadable)
        if upto == ends:
            return found
    raise AssertionError(f"read up to {upto}, not {ends}")


def pins(rows: FreshRows) -> list[int]:
    return sorted(pin for batch in rows.batches for pin in batch.attributes["pin_id"].tolist())


def test_it_reads_on_from_given_offsets_to_the_ends(broker: EmbeddedBroker, fresh: KafkaFreshRows) -> None:
    put(broker, EMBEDDED, row(1), row(3), row(5))
    put(broker, EMBEDDED, row(2, version=VERSION_B), partition=1)
    assert fresh.spans([EMBEDDED]) == {EMBEDDED: {0: (0, 3), 1: (0, 1)}}
    fresh.read_from({EMBEDDED: {0: 1, 1: 0}})
    found = read_to(fresh, {EMBEDDED: {0: 3, 1: 1}})
    assert pins(found) == [2, 3, 5]
    assert {name for batch in found.batches for name in batch.versions} == {VERSION_A, VERSION_B}


def test_a_rewind_gives_the_same_rows_again(broker: EmbeddedBroker, fresh: KafkaFreshRows) -> None:
    put(broker, EMBEDDED, row(1), row(3))
    for _ in range(2):
        fresh.read_from({EMBEDDED: {0: 0, 1: 0}})
        assert pins(read_to(fresh, {EMBEDDED: {0: 2, 1: 0}})) == [1, 3]


def test_bad_rows_are_counted_and_the_others_kept(broker: EmbeddedBroker, fresh: KafkaFreshRows) -> None:
    put(broker, EMBEDDED, row(1), (b"1:x", b"{"), (b"wrong key", row(3)[1]), row(5))
    put(broker, FEATURES, (b"7", b"no state"))
    fresh.read_from({EMBEDDED: {0: 0}, FEATURES: {0: 0}})
    found = read_to(fresh, {EMBEDDED: {0: 4}, FEATURES: {0: 1}})
    assert (pins(found), found.unreadable) == ([1, 5], 3)


def test_states_give_attributes_and_no_embedding(broker: EmbeddedBroker, fresh: KafkaFreshRows) -> None:
    records = empty_records(np.array([7, 8]))
    records["changed_offset"], records["aggregated_offset"] = [4, 5], -1
    records["bid_micros"], records["status"] = [70, 80], [0, STATUS_CODES["paused"]]
    rows = feature_rows(records, [json.dumps("Crème").encode(), b""])
    put(
        broker,
        FEATURES,
        *((key.encode(), value.encode()) for key, value in zip(rows.keys, rows.values, strict=True)),
    )
    fresh.read_from({FEATURES: {0: 0}})
    found = read_to(fresh, {FEATURES: {0: 2}})
    fields = np.concatenate([batch.attributes for batch in found.batches])
    assert fields["bid_micros"].tolist() == [70, 80]
    assert fields["changed_offset"].tolist() == [4, 5]
    # A Pin whose status nobody has told is active, as on pin.embedded.v1.
    assert fields["status"].tolist() == [STATUS_CODES["active"], STATUS_CODES["paused"]]
    assert [title for batch in found.batches for title in batch.titles] == ["Crème", ""]
    assert {name for batch in found.batches for name in batch.versions} == {NO_VERSION}


def test_every_attribute_of_a_state_is_taken_over() -> None:
    records = empty_records(np.array([7]))
    names = [name for name in ATTRIBUTES.names or () if name not in ("pin_id", "input_mask", "status")]
    for value, name in enumerate(names, start=1):
        records[name] = value
    taken = attribute_rows(records, [b""]).attributes
    assert [int(taken[name][0]) for name in names] == list(range(1, len(names) + 1))


def test_a_topic_that_is_not_there_is_nothing_final(broker: EmbeddedBroker, fresh: KafkaFreshRows) -> None:
    with pytest.raises(RetryableError, match=r"state\.checkpointed\.v1"):
        fresh.spans(["state.checkpointed.v1"])


def test_a_broker_that_is_gone_is_said_and_reading_goes_on() -> None:
    with EmbeddedBroker([(EMBEDDED, 1)]) as gone:
        fresh = KafkaFreshRows(KafkaSettings(bootstrap_servers=gone.bootstrap_servers))
        fresh.read_from({EMBEDDED: {0: 0}})
        read_to(fresh, {EMBEDDED: {0: 0}})
    assert fresh.read(0.1, DIMENSIONS).batches == []
    with pytest.raises(RetryableError):
        fresh.spans([EMBEDDED])
    fresh.close()
