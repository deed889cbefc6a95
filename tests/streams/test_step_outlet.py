import pytest
from confluent_kafka import Producer

from schemas.errors import DeadLetterReason, RetryableError
from schemas.topics import PIN_AGGREGATED, VISIT_OBSERVED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import Config, KafkaClients, KafkaSettings
from streams.step_outlet import KafkaStepOutlet
from streams.steps import Output, RawEvent, TurnedDown

from .enrichment_oracle import read_all

EVENT = RawEvent(VISIT_OBSERVED.name, 3, 17, 1_000, b"7", b"{", [("ce_id", b"9"), ("x-dlq-reason", b"older")])
LETTER = TurnedDown(EVENT, DeadLetterReason.FUTURE_EVENT, "tomorrow")


def test_rows_and_letters_are_with_the_broker_when_it_returns() -> None:
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        outlet = KafkaStepOutlet(settings, "windows", "stream-0")
        outlet.send(
            [Output(PIN_AGGREGATED.name, b"7", b"a"), Output(PIN_AGGREGATED.name, b"7", b"b", partition=5)],
            [LETTER],
        )
        rows = read_all(settings, PIN_AGGREGATED.name)
        (letter,) = read_all(settings, VISIT_OBSERVED.dlq)
        outlet.close()

    assert sorted((one.key(), one.value()) for one in rows) == [(b"7", b"a"), (b"7", b"b")]
    assert next(one.partition() for one in rows if one.value() == b"b") == 5
    assert (letter.key(), letter.value()) == (b"7", b"{")
    headers = dict(letter.headers() or [])
    story = {name: headers[f"x-dlq-{name}"] for name in ("reason", "stage", "worker", "offset", "message")}
    assert story == {
        "reason": b"future_event",
        "stage": b"windows",
        "worker": b"stream-0",
        "offset": b"17",
        "message": b"tomorrow",
    }
    assert headers["ce_id"] == b"9"


def test_a_letter_too_large_for_kafka_is_cut_and_says_so() -> None:
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        outlet = KafkaStepOutlet(settings, "windows", "stream-0")
        large = RawEvent(VISIT_OBSERVED.name, 3, 17, 1_000, b"7", b"x" * 1_020_000, [])
        outlet.send([], [TurnedDown(large, DeadLetterReason.TOO_LARGE, "too large")])
        (letter,) = read_all(settings, VISIT_OBSERVED.dlq)
        outlet.close()
    assert letter.value() == b"x" * 65_536
    assert ("x-dlq-cut", b"true") in (letter.headers() or [])


def test_a_broker_that_is_not_there_is_a_reason_to_try_again_with_a_new_producer() -> None:
    made: list[Config] = []

    def producer(config: Config) -> Producer:
        made.append(config)
        return Producer(config | {"log_level": 0})

    settings = KafkaSettings(
        bootstrap_servers="127.0.0.1:1", session_timeout_ms=300, heartbeat_interval_ms=100
    )
    outlet = KafkaStepOutlet(settings, "windows", "stream-0", KafkaClients(producer=producer))
    for attempt in (1, 2):
        with pytest.raises(RetryableError, match="did not take"):
            outlet.send([Output(PIN_AGGREGATED.name, b"7", b"a")], [])
        assert len(made) == attempt
    # What a worker cannot get rid of within its session is not its to send any more.
    assert made[0]["delivery.timeout.ms"] == 300
    outlet.close()


def test_nothing_to_send_connects_to_nothing() -> None:
    made: list[Config] = []
    clients = KafkaClients(producer=lambda config: made.append(config) or Producer(config))  # type: ignore[func-returns-value]
    KafkaStepOutlet(KafkaSettings(), "windows", "stream-0", clients).send([], [])
    assert made == []
