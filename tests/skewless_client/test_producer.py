import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, Message

from schemas.cloudevents import read_headers
from schemas.codec import decode
from schemas.errors import InvalidMessage, Refused
from schemas.events import EngagementObserved, PinAggregated, PinChanged, VisitObserved
from schemas.vectors import CONTENT_DIMENSION, encode_fp16
from skewless_client import NotDelivered, PinProducer, ProducerSettings
from streams.embedded_broker import EmbeddedBroker
from tests.streams.broker_faults import set_down

ROOT = Path(__file__).parents[2]


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    topics = ("pin.changed.v1", "pin.aggregated.v1", "visit.observed.v1", "engagement.observed.v1")
    with EmbeddedBroker([(topic, 4) for topic in topics]) as made:
        yield made


def settings(broker: EmbeddedBroker, **changes: Any) -> ProducerSettings:
    return ProducerSettings(
        **({"bootstrap_servers": broker.bootstrap_servers, "source": "catalogue"} | changes)
    )


def read(broker: EmbeddedBroker, topic: str, count: int) -> list[Message]:
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap_servers, "group.id": "t", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    messages: list[Message] = []
    while len(messages) < count:
        messages += consumer.consume(count - len(messages), 5.0)
    consumer.close()
    return messages


def test_an_event_arrives_with_key_headers_and_base64_vector(broker: EmbeddedBroker) -> None:
    event = PinChanged(
        pin_id=7,
        occurred_at_ms=1_500_000_000_123,
        content_embedding=[0.5] * CONTENT_DIMENSION,  # type: ignore[arg-type]  # converted on input
    )
    with PinProducer(settings(broker)) as pins:
        event_id = pins.send(event)
        pins.flush()
        assert (pins.counts.acked, pins.counts.failed, pins.counts.in_flight) == (1, 0, 0)
    (message,) = read(broker, "pin.changed.v1", 1)
    assert message.key() == b"7"
    value = message.value()
    assert value is not None and encode_fp16([0.5] * CONTENT_DIMENSION).encode() in value
    assert decode(PinChanged, value) == event
    assert read_headers(cast(Any, message.headers())) == {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_source": "catalogue",
        "ce_type": "pin.changed.v1",
        "ce_time": "2017-07-14T02:40:00.123Z",
        "content-type": "application/json",
    }


def test_each_event_type_goes_to_its_topic_in_order(broker: EmbeddedBroker) -> None:
    with PinProducer(settings(broker)) as pins:
        ids = pins.send_many(PinAggregated(pin_id=7, occurred_at_ms=n) for n in range(50))
        assert pins.send(PinAggregated(pin_id=7, occurred_at_ms=50), event_id="mine") == "mine"
    assert len(set(ids)) == 50
    came = [decode(PinAggregated, one.value()) for one in read(broker, "pin.aggregated.v1", 51)]
    assert [event.occurred_at_ms for event in came] == list(range(51))


def test_visits_and_engagements_are_sent_too(broker: EmbeddedBroker) -> None:
    visit = VisitObserved(pin_id=7, occurred_at_ms=1, user_id=2)
    bought = EngagementObserved(pin_id=7, occurred_at_ms=1, user_id=2, kind="purchase")
    with PinProducer(settings(broker)) as pins:
        pins.send_many([visit, bought])

    (seen,), (done,) = read(broker, "visit.observed.v1", 1), read(broker, "engagement.observed.v1", 1)
    assert decode(VisitObserved, seen.value()) == visit and seen.key() == b"7"
    assert decode(EngagementObserved, done.value()) == bought and done.key() == b"7"


def test_a_full_local_queue_is_waited_for(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    small = settings(broker)
    config = small.config() | {"queue.buffering.max.messages": 10}
    monkeypatch.setattr(ProducerSettings, "config", lambda _: config)
    with PinProducer(small) as pins:
        pins.send_many(PinChanged(pin_id=n, occurred_at_ms=n) for n in range(500))
    assert pins.counts.acked == 500


def test_what_did_not_arrive_is_raised_on_close() -> None:
    nobody = ProducerSettings("127.0.0.1:9", "catalogue", delivery_timeout_seconds=0.2)
    pins = PinProducer(nobody)
    pins.send_many(PinChanged(pin_id=n, occurred_at_ms=n) for n in range(3))
    with pytest.raises(NotDelivered, match="3 events failed and 0 were not answered") as caught:
        pins.close()
    assert caught.value.counts.failed == 3
    assert len(set(caught.value.event_ids)) == 3
    pins.close()
    with pytest.raises(RuntimeError, match="closed"):
        pins.send(PinChanged(pin_id=1, occurred_at_ms=1))


def test_what_failed_is_named_once_and_can_be_sent_again_when_the_broker_is_back(
    broker: EmbeddedBroker,
) -> None:
    events = {f"event-{n}": PinChanged(pin_id=n, occurred_at_ms=n) for n in range(30)}
    with PinProducer(settings(broker, delivery_timeout_seconds=3)) as pins:
        pins.send(PinChanged(pin_id=99, occurred_at_ms=1), event_id="before")
        pins.flush()
        set_down(broker, down=True)
        for event_id, event in events.items():
            pins.send(event, event_id=event_id)
        with pytest.raises(NotDelivered, match=r"30 events failed and 0 were not .*1 arrived") as caught:
            pins.flush()
        set_down(broker, down=False)

        assert sorted(caught.value.event_ids) == sorted(events)
        assert caught.value.counts.failed == 30
        assert all(one.split(",")[0] in events for one in caught.value.counts.errors)
        for event_id in caught.value.event_ids:
            pins.send(events[event_id], event_id=event_id)
        pins.flush()
        assert (pins.counts.acked, pins.counts.failed, pins.counts.in_flight) == (31, 0, 0)
    came = read(broker, "pin.changed.v1", 31)
    sent = {read_headers(cast(Any, one.headers()))["ce_id"] for one in came}
    assert sent == {"before", *events}


def test_an_event_over_the_size_limit_is_refused(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skewless_client.producer.MAX_EVENT_BYTES", 60)
    with PinProducer(settings(broker)) as pins:
        with pytest.raises(InvalidMessage, match="too_large"):
            pins.send(PinChanged(pin_id=7, occurred_at_ms=5, title="x" * 60))
        assert pins.counts.in_flight == 0


def test_plaintext_to_another_host_takes_saying_so() -> None:
    with pytest.raises(Refused, match="kafka_plaintext"):
        ProducerSettings("kafka:9092", "catalogue")
    with pytest.raises(Refused, match="kafka_plaintext"):
        ProducerSettings("localhost:1,kafka:9092", "catalogue", security_protocol="SASL_PLAINTEXT")
    assert ProducerSettings("kafka:9092", "catalogue", allow_plaintext=True)
    assert ProducerSettings("kafka:9092", "catalogue", security_protocol="SASL_SSL")


def test_the_password_is_not_in_the_repr() -> None:
    made = ProducerSettings(
        "k:1", "s", security_protocol="SASL_SSL", sasl_username="u", sasl_password="geheim"
    )
    assert "geheim" not in repr(made) and made.config()["sasl.password"] == "geheim"


_SENDER = """
import json, select, sys
from skewless_client import NotDelivered, PinChanged, PinProducer, ProducerSettings, exit_on_sigterm
exit_on_sigterm()
pins = PinProducer(ProducerSettings(sys.argv[1], "sender", delivery_timeout_seconds=20))
def report():
    c = pins.counts
    print(json.dumps({"acked": c.acked, "failed": c.failed, "in_flight": c.in_flight}), flush=True)
import atexit
# Hooks run last in, first out: the report has to come after the producer's own.
atexit.register(report); atexit.unregister(pins._at_exit); atexit.register(pins._at_exit)
for number in range(10_000):
    pins.send(PinChanged(pin_id=number, occurred_at_ms=number))
print("sent", flush=True)
# Not a read: a signal right before that would wait for its end.
while sys.argv[2] == "wait" and not select.select([sys.stdin], [], [], 0.1)[0]:
    pass
"""


@pytest.mark.parametrize("how", ["exit", "wait"])
def test_nothing_is_lost_when_a_process_ends_with_events_in_flight(broker: EmbeddedBroker, how: str) -> None:
    """`exit`: the program simply ends; `wait`: SIGTERM hits it as soon as it has queued the last event."""
    sender = subprocess.Popen(
        [sys.executable, "-c", _SENDER, broker.bootstrap_servers, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert sender.stdout is not None and sender.stdin is not None
    killer = threading.Timer(60, sender.kill)
    killer.start()
    with sender:
        assert sender.stdout.readline() == "sent\n"
        if how == "wait":
            sender.terminate()
        counts = json.loads(sender.stdout.readline())
    killer.cancel()
    assert sender.wait(10) == (0 if how == "exit" else 143)
    assert counts == {"acked": 10_000, "failed": 0, "in_flight": 0}
    came = read(broker, "pin.changed.v1", 10_000)
    assert {int(one.key() or b"") for one in came} == set(range(10_000))
