"""Faults of the embedded broker that a test plants."""

import ctypes

from confluent_kafka import KafkaError

from streams.embedded_broker import EmbeddedBroker

NOT_ALLOWED = int(KafkaError.TOPIC_AUTHORIZATION_FAILED)
NO_ERROR = int(KafkaError.NO_ERROR)


def answer_for_topic(broker: EmbeddedBroker, topic: str, error: int) -> None:
    """Let the broker answer everything about a topic with this error (`NO_ERROR`: mend it)."""
    # Not part of the broker's own interface, which serves the demo: nothing there breaks on purpose.
    set_error = broker._library.rd_kafka_mock_topic_set_error
    set_error.restype, set_error.argtypes = None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    set_error(broker._cluster, topic.encode(), error)


def set_down(broker: EmbeddedBroker, *, down: bool) -> None:
    """Let the broker hang up and take no connection (`down`), or be there again with all that it had."""
    name = f"rd_kafka_mock_broker_set_{'down' if down else 'up'}"
    switch = getattr(broker._library, name)
    switch.restype, switch.argtypes = ctypes.c_int, [ctypes.c_void_p, ctypes.c_int32]
    assert switch(broker._cluster, 1) == NO_ERROR
