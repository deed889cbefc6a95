"""Silent events first, for every source of a partition number, and then what waited for them."""

from typing import Any

from confluent_kafka import TopicPartition

from streams.catch_up import CatchUp
from streams.positions import Partition, plan_start

C, A = "pin.changed.v1", "pin.aggregated.v1"


class _Message:
    def __init__(self, topic: str, partition: int, offset: int) -> None:
        self.at = (topic, partition, offset)

    def topic(self) -> str:
        return self.at[0]

    def partition(self) -> int:
        return self.at[1]

    def offset(self) -> int:
        return self.at[2]


class _Consumer:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.paused: set[Partition] = set()
        self.sought: dict[Partition, int] = {}

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= {(one.topic, one.partition) for one in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {(one.topic, one.partition) for one in partitions}

    def seek(self, partition: TopicPartition) -> None:
        self.sought[partition.topic, partition.partition] = partition.offset


def _catch_up(**committed: int) -> CatchUp:
    """Partition 0 of both sources, read from offset 0 on."""
    names = {"changed": C, "aggregated": A}
    return CatchUp({(names[name], 0): plan_start(offset, 0, 0, low=0) for name, offset in committed.items()})


def _held_back(catch_up: CatchUp, consumer: Any, *places: tuple[str, int, int]) -> list[tuple[str, int, int]]:
    messages: list[Any] = [_Message(*place) for place in places]
    kept: list[Any] = list(catch_up.held_back(consumer, messages))
    return [one.at for one in kept]


def test_fresh_events_wait_until_the_other_source_of_their_partition_has_caught_up() -> None:
    catch_up, consumer = _catch_up(changed=5, aggregated=0), _Consumer()
    silent, fresh, elsewhere = (C, 0, 3), (A, 0, 0), (A, 1, 9)
    assert _held_back(catch_up, consumer, silent, fresh, (A, 0, 1), elsewhere) == [silent, elsewhere]
    assert consumer.paused == {(A, 0)}
    anyone: Any = consumer
    catch_up.advance(anyone, {(C, 0): 4})
    assert consumer.paused == {(A, 0)}
    catch_up.advance(anyone, {(C, 0): 5})
    assert consumer.paused == set()
    assert consumer.sought == {(A, 0): 0}
    assert _held_back(catch_up, consumer, fresh) == [fresh]


def test_what_ends_the_silence_lets_fresh_events_of_the_same_batch_through() -> None:
    catch_up, consumer = _catch_up(changed=5, aggregated=0), _Consumer()
    batch = ((C, 0, 4), (C, 0, 5), (A, 0, 0))
    assert _held_back(catch_up, consumer, *batch) == list(batch)
    assert consumer.paused == set()


def test_a_gap_below_the_bound_holds_nobody_for_ever() -> None:
    catch_up, consumer = _catch_up(changed=5, aggregated=0), _Consumer()
    # Offsets 3 and 4 are no events (a transaction's marks): the next event is beyond the bound.
    batch = ((C, 0, 2), (C, 0, 7), (A, 0, 0))
    assert _held_back(catch_up, consumer, *batch) == list(batch)


def test_with_nothing_to_catch_up_with_everything_passes() -> None:
    catch_up, consumer = _catch_up(changed=0, aggregated=0), _Consumer()
    assert _held_back(catch_up, consumer, (C, 0, 0), (A, 0, 0)) == [(C, 0, 0), (A, 0, 0)]


def test_a_gap_right_below_the_bound_holds_nobody_when_both_sources_are_behind() -> None:
    catch_up, consumer = _catch_up(changed=5, aggregated=2), _Consumer()
    anyone: Any = consumer
    # Offset 4 is no event; the next one is fresh and has to wait for the other source.
    assert _held_back(catch_up, consumer, (C, 0, 3), (C, 0, 5)) == [(C, 0, 3)]
    catch_up.advance(anyone, {(C, 0): 4})
    assert _held_back(catch_up, consumer, (A, 0, 0), (A, 0, 1)) == [(A, 0, 0), (A, 0, 1)]
    catch_up.advance(anyone, {(A, 0): 2})
    assert consumer.paused == set()
    assert consumer.sought == {(C, 0): 5}
