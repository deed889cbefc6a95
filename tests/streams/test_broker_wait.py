import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.broker_wait import SAY_EVERY_SECONDS, wait_for_broker
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaClients, KafkaSettings


@pytest.fixture
def nobody() -> Iterator[KafkaSettings]:
    """An address that refuses connections for as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield KafkaSettings(bootstrap_servers=f"127.0.0.1:{taken.getsockname()[1]}")


def _after(rounds: int) -> Callable[[], bool]:
    left = iter([False] * rounds)
    return lambda: next(left, True)


def test_a_broker_that_answers_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        assert wait_for_broker(settings, lambda: False)
    assert caplog.messages == []


def test_one_that_is_away_is_waited_for_in_one_line_every_few_seconds_until_the_process_is_to_stop(
    nobody: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = iter([0.0, 1.0, 1.0, 2.0, SAY_EVERY_SECONDS + 1.0, SAY_EVERY_SECONDS + 1.0])
    with caplog.at_level(logging.INFO):
        assert not wait_for_broker(nobody, _after(3), lambda: next(seconds))
    assert len(caplog.messages) == 2
    assert all(nobody.bootstrap_servers in line and "refused" in line for line in caplog.messages)


class _Late:
    """A client whose broker answers the third question."""

    def __init__(self) -> None:
        self.questions = self.closed = 0

    def list_topics(self, timeout: float) -> None:
        self.questions += 1
        if self.questions < 3:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT, "nobody there"))

    def poll(self, timeout: float) -> None:
        return None

    def close(self) -> None:
        self.closed += 1


def test_one_that_comes_later_is_found_and_that_is_said_too(caplog: pytest.LogCaptureFixture) -> None:
    late = _Late()
    clients = KafkaClients(consumer=cast(Any, lambda config: late))
    seconds = iter([0.0, 1.0, 1.0, 2.0, 4.0])
    with caplog.at_level(logging.INFO):
        assert wait_for_broker(KafkaSettings(), lambda: False, lambda: next(seconds), clients)
    assert caplog.messages == [
        "waiting for Kafka at 127.0.0.1:9092: nobody there",
        "Kafka answers after 4 s",
    ]
    assert (late.questions, late.closed) == (3, 1)
