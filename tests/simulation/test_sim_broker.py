"""The model of Kafka itself: what it keeps, gives out, refuses and loses."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from .scheduler import Process, Scheduler
from .sim_broker import Network, SimBroker
from .sim_consumer import SimConsumer
from .sim_log import PartitionLog, SimTopics
from .sim_producer import SimProducer

_CONSUMER = {
    "enable.auto.commit": False,
    "partition.assignment.strategy": "range",
    "session.timeout.ms": 3000,
}
_PRODUCER = {"enable.idempotence": True, "acks": "all", "delivery.timeout.ms": 2000}


@pytest.fixture
def broker() -> SimBroker:
    scheduler = Scheduler(random.Random(1))
    return SimBroker(scheduler, SimTopics({"a": False, "b": False}, 3), Network())


def _run(broker: SimBroker, *bodies: Callable[[Process], None], until: float = 60.0) -> list[Process]:
    """Run processes side by side until all have ended; raises what one raised."""
    started = [broker.world.spawn(f"p{number}", body) for number, body in enumerate(bodies)]
    try:
        broker.world.run(lambda: not broker.world.processes, until=until)
    finally:
        broker.world.end()
    for one in started:
        if one.failure is not None:
            raise one.failure
    return started


def _member(broker: SimBroker, process: Process, events: list[Any], seconds: float) -> SimConsumer:
    """Be in the group for a while."""
    consumer = SimConsumer(_CONSUMER, process, broker)
    consumer.subscribe(
        ["a", "b"],
        on_assign=lambda _, them: events.append(("assign", [(one.topic, one.partition) for one in them])),
        on_revoke=lambda _, them: events.append(("revoke", len(them))),
        on_lost=lambda _, them: events.append(("lost", len(them))),
    )
    end = broker.world.time.now + seconds
    while broker.world.time.now < end:
        consumer.consume(10, 0.1)
    return consumer


def test_compaction_keeps_the_newest_record_of_a_key_by_log_order_and_spares_the_open_segment() -> None:
    log = PartitionLog("a", 0)
    for value in (b"1", b"2", b"3", b"4"):
        log.append(b"x" if value != b"2" else b"y", value, None, 0)
    log.compact(3)
    assert [one.value() for one in log.records] == [b"2", b"3", b"4"]
    log.compact(4)
    assert [(one.offset(), one.value()) for one in log.records] == [(1, b"2"), (3, b"4")]
    assert (log.low, log.high, len(log.history)) == (0, 4, 4)


def test_partitions_of_one_number_go_to_one_member(broker: SimBroker) -> None:
    one: list[Any] = []
    other: list[Any] = []
    _run(
        broker,
        lambda process: _member(broker, process, one, 5.0).close(),
        lambda process: _member(broker, process, other, 5.0).close(),
    )
    shares = [events[-2][1] for events in (one, other) if events[-2][0] == "assign"]
    numbers = [{number for _, number in share} for share in shares]
    assert all(
        {("a", n), ("b", n)} <= set(share) for share, mine in zip(shares, numbers, strict=True) for n in mine
    )
    assert set().union(*numbers) == {0, 1, 2}
    assert sum(map(len, shares)) >= 6


def test_a_process_that_was_stopped_past_its_session_cannot_commit_and_is_told_that_it_lost(
    broker: SimBroker,
) -> None:
    events: list[Any] = []
    codes: list[int] = []

    def body(process: Process) -> None:
        consumer = _member(broker, process, events, 1.0)
        process.paused_until = broker.world.time.now + 5.0
        broker.touch_changed()
        process.sleep(0.0)
        try:
            consumer.commit([TopicPartition("a", 0, 1)], asynchronous=False)
        except KafkaException as error:
            codes.append(error.args[0].code())
        while ("lost", 6) not in events:
            consumer.consume(10, 0.1)
        consumer.close()

    _run(broker, body)
    assert codes == [KafkaError.UNKNOWN_MEMBER_ID]
    assert broker.group.committed == {}


def test_rows_arrive_once_and_in_order_through_an_outage(broker: SimBroker) -> None:
    def body(process: Process) -> None:
        producer = SimProducer(_PRODUCER, process, broker)
        for number in range(50):
            while producer.produce_batch("a", [{"key": b"k", "value": b"%d" % number}], partition=1) == 0:
                producer.poll(0.1)
            if number == 25:
                broker.outage(1.0)
        assert producer.flush(10.0) == 0

    _run(broker, body)
    assert [int(one.value() or b"") for one in broker.topics.log("a", 1).records] == list(range(50))


def test_what_is_queued_expires_when_the_broker_stays_away(broker: SimBroker) -> None:
    errors: list[int] = []

    def body(process: Process) -> None:
        broker.outage(100.0)
        producer = SimProducer(_PRODUCER, process, broker)
        producer.produce("a", b"v", key=b"k", on_delivery=lambda error, _: errors.append(error.code()))
        assert producer.flush(10.0) == 0

    _run(broker, body)
    assert errors == [KafkaError._MSG_TIMED_OUT]
    assert broker.world.time.now == pytest.approx(2.0, abs=0.1)


def test_the_dead_are_gone_after_their_session_and_not_before(broker: SimBroker) -> None:
    events: list[Any] = []
    victim = broker.world.spawn("victim", lambda process: _member(broker, process, [], 100.0).close())
    broker.world.run(lambda: bool(broker.group.members) and broker.world.time.now > 1, until=10)
    victim.kill()
    broker.touch_changed()
    _run(broker, lambda process: _member(broker, process, events, 6.0).close())
    assert len(events[0][1]) == 6
    assert not broker.group.members


def test_a_call_of_the_dead_changes_nothing(broker: SimBroker) -> None:
    def body(process: Process) -> None:
        producer = SimProducer(_PRODUCER, process, broker)
        try:
            process.kill()
        finally:
            producer.produce("a", b"v", key=b"k")

    _run(broker, body)
    assert all(log.high == 0 for log in broker.topics.of("a"))
