import pytest

from schemas.errors import DeadLetterReason, InvalidMessage, Refused, RetryableError
from schemas.topics import PIN_EMBEDDED
from streams.wire_format import WireFormats, WriterSchema

from .registry_double import Schemas, framed
from .step_doubles import TOPIC, Around, EchoStep, MemoryOutlet, MemorySource, event

LANE = (TOPIC, 0)


def _log(count: int, partition: int = 0) -> MemorySource:
    return MemorySource({(TOPIC, partition): [event(number, partition) for number in range(count)]})


def test_a_batch_is_folded_and_its_rows_and_letters_are_sent() -> None:
    around = Around()
    around.driver.take([event(0), event(1, value=b"bad"), event(2)])

    assert [one.key for one in around.outlet.outputs] == [b"0", b"2"]
    assert [one.event.offset for one in around.outlet.letters] == [1]
    assert around.metric("events_total", result="applied") == 2
    assert around.metric("events_total", result="dead_lettered") == 1
    assert around.metric("dead_letters_total", reason=DeadLetterReason.DECODE_ERROR.value) == 1
    assert around.metric("outputs_total") == 2
    assert around.metric("lag_seconds") == 2.5
    assert around.driver.events_taken == 3


def test_the_first_call_of_a_step_is_a_tick() -> None:
    around = Around()
    around.driver.take([event(0)])
    around.driver.take([event(1)])
    assert around.step.calls == ["tick", "apply", "apply"]


def test_a_step_learns_its_partitions_and_what_it_lacks_of_them_before_it_catches_up() -> None:
    around = Around(source=_log(2))
    around.source.committed[LANE] = 2
    around.driver.assigned([LANE, (TOPIC, 1)])
    assert around.step.calls == ["owned [0, 1] behind [0]", "tick", "apply", "apply", "owned [0, 1]"]
    assert around.metric("partitions") == 2


def test_a_step_whose_question_is_not_answered_at_a_rebalance_asks_again() -> None:
    around = Around(step=EchoStep(unanswered=1))
    around.driver.assigned([LANE])
    assert around.step.calls == ["owned [0]", "owned [0]", "tick"]
    assert (around.pauses, around.metric("retries_total")) == ([0.1], 1)


def test_what_the_group_has_committed_has_its_letters_already() -> None:
    """A second letter would be replayed as a second message, under an offset of its own."""
    log = [event(0, value=b"bad"), event(1), event(2, value=b"bad")]
    around = Around(source=MemorySource({LANE: log}, {LANE: 2}))

    around.driver.assigned([LANE])
    assert around.outlet.letters == []
    assert around.metric("dead_letters_total", reason=DeadLetterReason.DECODE_ERROR.value) == 0
    around.driver.take(log[2:])
    assert [one.event.offset for one in around.outlet.letters] == [2]


def test_a_hole_that_the_group_has_not_committed_keeps_its_letters() -> None:
    log = [event(0), event(1, value=b"bad"), event(2)]
    around = Around(source=MemorySource({LANE: log}))
    around.driver.take([log[0], log[2]])
    assert [one.event.offset for one in around.outlet.letters] == [1]


def test_what_another_worker_had_is_read_at_assignment_and_its_rows_are_sent() -> None:
    around = Around(source=_log(10))
    around.source.committed[LANE] = 7
    around.step.next_offsets[LANE] = 4

    around.driver.assigned([LANE])

    assert around.step.seen == [(0, 4), (0, 5), (0, 6)]
    assert [one.key for one in around.outlet.outputs] == [b"4", b"5", b"6"]
    assert around.metric("gap_events_total") == 3
    assert not around.driver.catching_up


def test_a_state_that_lacks_nothing_reads_nothing_again() -> None:
    around = Around(source=_log(10))
    around.source.committed[LANE] = 7
    around.step.next_offsets[LANE] = 9
    around.driver.assigned([LANE])
    assert around.source.reads == []


def test_a_group_without_offsets_is_left_to_begin_at_the_beginning() -> None:
    around = Around(source=_log(10))
    around.driver.assigned([LANE])
    assert around.source.reads == []


def test_a_lost_disk_is_made_good_when_the_next_event_arrives() -> None:
    around = Around(source=_log(10))
    around.driver.take([event(8), event(9)])
    assert [offset for _, offset in around.step.seen] == list(range(10))


def test_a_hole_in_the_middle_of_a_batch_is_filled_in_order() -> None:
    around = Around(source=_log(10))
    around.driver.take([event(0), event(1), event(5), event(6)])
    assert [offset for _, offset in around.step.seen] == [0, 1, 2, 3, 4, 5, 6]


def test_a_compacted_topic_has_holes_by_design() -> None:
    around = Around()
    around.driver.take([event(4, topic=PIN_EMBEDDED.name), event(9, topic=PIN_EMBEDDED.name)])
    assert around.source.reads == []
    assert [offset for _, offset in around.step.seen] == [4, 9]


def test_redelivered_events_go_to_the_step_which_knows_them() -> None:
    around = Around()
    around.driver.take([event(0), event(1)])
    around.driver.take([event(1), event(2)])
    assert around.step.batches == [[0, 1], [1, 2]]


def test_events_that_the_topic_no_longer_has_are_counted() -> None:
    around = Around(source=_log(10))
    around.source.low, around.source.committed[LANE] = 6, 4
    around.step.next_offsets[LANE] = 4
    around.driver.assigned([LANE])
    assert around.metric("missed_events_total") == 2


@pytest.mark.parametrize("committed", [None, 8])
def test_what_the_topic_dropped_before_a_new_state_was_missed_by_nobody(committed: int | None) -> None:
    """The step is new here, or takes over: its predecessor had what was committed."""
    around = Around(source=_log(10))
    around.source.low = 6
    if committed is not None:
        around.source.committed[LANE] = committed
    around.driver.assigned([LANE])
    assert around.metric("missed_events_total") == 0
    assert around.step.seen == [(0, offset) for offset in range(6, committed or 0)]


def test_a_state_ahead_of_its_topic_is_refused() -> None:
    around = Around(source=_log(3))
    around.step.next_offsets[LANE] = 9
    with pytest.raises(Refused, match="state_ahead_of_topic"):
        around.driver.assigned([LANE])


def test_reading_again_goes_on_after_trouble_from_where_it_was() -> None:
    around = Around(source=_log(4))
    around.source.failures = ["silence"]
    around.driver.take([event(3)])
    assert [offset for _, offset in around.step.seen] == [0, 1, 2, 3]
    assert around.source.reads == [(TOPIC, {0: (0, 3)}), (TOPIC, {0: (1, 3)})]


def test_a_broker_that_is_away_is_asked_again_with_growing_pauses() -> None:
    around = Around(outlet=MemoryOutlet(failures=3))
    around.driver.take([event(0)])
    assert around.pauses == [0.1, 0.2, 0.4]
    assert [one.key for one in around.outlet.outputs] == [b"0"]
    assert around.metric("retries_total") == 3


def test_patience_ends() -> None:
    around = Around(outlet=MemoryOutlet(failures=100))
    with pytest.raises(RetryableError):
        around.driver.take([event(0)])
    assert sum(around.pauses) == pytest.approx(1.5)


def test_rows_of_a_partition_that_was_lost_meanwhile_are_left_to_its_new_owner() -> None:
    around = Around(outlet=MemoryOutlet(failures=1))

    def lose() -> None:
        around.owned = frozenset({(TOPIC, 1)})

    around.outlet.on_send = lose
    around.driver.take([event(0, 0), event(0, 1), event(1, 0, value=b"bad")])

    assert [one.owner for one in around.outlet.outputs] == [1]
    # A letter is never left out: two are better than none.
    assert len(around.outlet.letters) == 1
    assert around.metric("disowned_outputs_total") == 1
    # The step hears of it before its next call, which would let it forget what it has given out.
    assert around.step.calls == ["tick", "apply", "owned [1]"]


def test_a_tick_says_whether_there_is_more() -> None:
    around = Around(step=EchoStep(left=2))
    assert [around.driver.tick(), around.driver.tick()] == [True, False]


def test_closing_closes_everything() -> None:
    around = Around()
    around.driver.close()
    assert (around.step.closed, around.source.closed, around.outlet.closed) == (True, True, True)


def test_a_step_reads_framed_messages_and_turns_down_those_of_an_unknown_schema() -> None:
    schemas = Schemas(_1=WriterSchema("JSON", "{}"))
    around = Around(formats=WireFormats(schemas))
    good, unknown = event(0, value=framed(1, b"{}")), event(1, value=framed(9, b"{}"))

    around.driver.take([good, unknown, event(2)])

    assert [one.json() for one in around.step.events if one.offset != 1] == [b"{}", event(2).value]
    with pytest.raises(InvalidMessage, match="no schema 9"):
        around.step.events[1].json()
    assert around.step.events[1].value == unknown.value


def test_a_registry_that_is_away_is_waited_for() -> None:
    schemas = Schemas(_1=WriterSchema("JSON", "{}"))
    schemas.away = True
    around = Around(formats=WireFormats(schemas))

    with pytest.raises(RetryableError):
        around.driver.take([event(0, value=framed(1, b"{}"))])
    assert around.step.events == []
    schemas.away = False
    around.driver.take([event(0, value=framed(1, b"{}"))])
    assert [one.json() for one in around.step.events] == [b"{}"]
