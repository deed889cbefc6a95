"""A broker that takes rows and no dead letters: nothing of such a batch is committed."""

import time
from pathlib import Path

from confluent_kafka import Producer

from schemas.codec import encode
from schemas.events import PinChanged
from schemas.topics import PIN_CHANGED, PIN_EMBEDDED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, producer_config
from tests.schemas.examples import VERSION_A
from tests.streams.broker_faults import NO_ERROR, NOT_ALLOWED, answer_for_topic
from tests.streams.enrichment_oracle import read_all
from tests.streams.history import Anomalies, check
from tests.streams.kill_suite.plan import Plan
from tests.streams.kill_suite.processes import Fleet
from tests.streams.kill_suite.record import Watch, history

PIN, GOOD = 7, 20
DEADLINE_SECONDS = 60.0
WATCHED_SECONDS = 3.0
"""So long it is looked whether anything is committed after all: many times what a commit takes."""


def _publish(settings: KafkaSettings) -> None:
    """Good events of one Pin around one poison message."""
    producer = Producer(producer_config(settings))
    for number in range(GOOD):
        event = PinChanged(pin_id=PIN, occurred_at_ms=1_000 + number, price_micros=number)
        producer.produce(PIN_CHANGED.name, encode(event), key=b"%d" % PIN)
        if number == GOOD // 2:
            producer.produce(PIN_CHANGED.name, b"{", key=b"%d" % PIN)
    assert producer.flush(30) == 0


def test_nothing_is_committed_while_a_dead_letter_is_not_acknowledged(tmp_path: Path) -> None:
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        _publish(settings)
        answer_for_topic(broker, PIN_CHANGED.dlq, NOT_ALLOWED)
        # Under a supervisor, whether the worker reconnects by itself or leaves that to it.
        fleet, watch = Fleet(settings, Plan(0, {}, batch_events=100), tmp_path), Watch(settings)
        fleet.scale(1)
        rows_were_out = 0.0
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not rows_were_out or time.monotonic() < rows_were_out + WATCHED_SECONDS:
            assert sum(watch.committed().values()) == 0
            assert time.monotonic() < deadline
            fleet.supervise()
            if not rows_were_out and read_all(settings, PIN_EMBEDDED.name):
                rows_were_out = time.monotonic()
        answer_for_topic(broker, PIN_CHANGED.dlq, NO_ERROR)
        while sum(watch.committed().values()) < GOOD + 1:
            assert time.monotonic() < deadline, fleet.workers[0].tail()
            fleet.supervise()
        watch.close()
        for worker in fleet.running:
            worker.terminate()
        found = check(history(settings, [VERSION_A]))
    assert (found.lost, found.unprocessed, found.wrong, found.phantom) == (0, 0, 0, 0)
    assert found != Anomalies()
