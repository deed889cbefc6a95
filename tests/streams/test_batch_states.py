import numpy as np
import pytest

from features.tier_slices import buckets, in_tier
from schemas.errors import Refused
from schemas.tiers import Tier
from streams.batch_states import Interrupted, PartitionReader, PartitionStates
from tests.streams.states_in_memory import StatesInMemory, state, value

ALL = Tier(name="batch", policy="batch")


def read(source: StatesInMemory, tier: Tier = ALL, least_end: int = 0) -> PartitionStates:
    return PartitionReader(source, tier, lambda: False).read(0, least_end, lambda rows: None)


def test_the_newest_state_of_each_pin_is_read_ascending_with_its_title() -> None:
    source = StatesInMemory(1)
    for pin, revision in [(7, 1), (3, 2), (7, 5), (3, 1), (5, 0)]:
        source.put(pin, revision, title=f"{pin}/{revision}")

    found = read(source)

    assert found.records["pin_id"].tolist() == [3, 5, 7]
    assert found.records["changed_offset"].tolist() == [2, 0, 5]
    assert found.tails == [b'"3/2"', b'"5/0"', b'"7/5"']
    assert (found.first_offset, found.end_offset, found.state_rows) == (0, 5, 5)


def test_of_two_states_each_source_gives_its_newest_half() -> None:
    source = StatesInMemory(1)
    source.log[0] = [
        value(state(7, 9, aggregated_offset=1, bid_micros=90)),
        value(state(7, 4, aggregated_offset=6, bid_micros=40)),
    ]

    (record,) = read(source).records

    assert (record["changed_offset"], record["aggregated_offset"], record["bid_micros"]) == (9, 6, 90)


def test_only_the_tiers_own_pins_are_read() -> None:
    tier = Tier(name="batch", policy="batch", first_bucket=0, end_bucket=40)
    source = StatesInMemory(1)
    for pin in range(50):
        source.put(pin)

    found = read(source, tier)

    expected = [pin for pin in range(50) if buckets(np.array([pin]))[0] < 40]
    assert found.records["pin_id"].tolist() == expected
    assert in_tier(found.records["pin_id"], tier).all()
    assert found.state_rows == 50


def test_a_pin_whose_row_compaction_took_while_it_was_read_is_found_at_its_new_place() -> None:
    source = StatesInMemory(1, batch=1)
    for pin in (1, 2, 3):
        source.put(pin)

    def compact(_: int) -> None:
        if len(source.log[0]) == 3:  # before the first row is handed out: Pin 3 changes, its old row goes
            source.put(3, revision=8)
            source.log[0][2] = None

    source.on_read = compact

    found = read(source)

    assert found.records["pin_id"].tolist() == [1, 2, 3]
    assert found.records["changed_offset"].tolist() == [0, 0, 8]
    assert found.end_offset == 4


def test_a_row_that_is_no_state_is_named_and_the_others_are_read() -> None:
    source = StatesInMemory(1)
    source.put(1)
    source.log[0].append(b'{"pin_id":"seven"}')
    source.put(2)

    found = read(source)

    assert found.records["pin_id"].tolist() == [1, 2]
    assert list(found.unreadable) == [1] and "schema_invalid" in found.unreadable[1]


def test_a_topic_that_is_shorter_than_it_was_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        read(StatesInMemory(1), least_end=5)

    assert refused.value.code == "states_gone"


def test_it_stops_between_two_reads() -> None:
    source = StatesInMemory(1)
    source.put(1)

    with pytest.raises(Interrupted):
        PartitionReader(source, ALL, lambda: True).read(0, 0, lambda rows: None)
