"""What the worker and the cutter write to Kafka, and whether the broker has it."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message

from schemas.errors import RetryableError

from .dead_letters import CUT, Headers, letter_headers, letter_topic
from .kafka import KafkaClients, KafkaSettings, producer_config
from .sources import DeadLetter

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 1.0
_QUEUE_FULL_SECONDS = 0.1
_CUT_BYTES = 65_536
"""What is kept of the key and of the value of a letter that Kafka does not take whole."""


class Rows(Protocol):
    """Rows for one topic; row i belongs on `partitions[i]`."""

    @property
    def topic(self) -> str: ...  # noqa: D102

    @property
    def keys(self) -> list[str]: ...  # noqa: D102

    @property
    def values(self) -> list[str]: ...  # noqa: D102

    @property
    def partitions(self) -> list[int]: ...  # noqa: D102


class DeliveryFailed(Exception):
    """The broker refuses a row or a dead letter for good. Nothing of its batch may be committed."""


_WORTH_ANOTHER_TRY = {KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN}


class Outlet:
    """An idempotent producer. Everything is acknowledged when `wait` returns; it raises otherwise."""

    def __init__(self, settings: KafkaSettings, sender: str, clients: KafkaClients | None = None) -> None:
        overrides = {
            # Only failures come back one by one; that all others arrived shows in the empty queue.
            "delivery.report.only.error": True,
            # A worker that was away for longer is no longer of the group: what it had queued must not
            # arrive behind the rows of the one that took over.
            "delivery.timeout.ms": settings.session_timeout_ms * 4 // 10,
            "batch.size": 1 << 20,
        }
        self._producer = (clients or KafkaClients()).producer(producer_config(settings, overrides))
        self._sender = sender
        self._failure: KafkaError | None = None

    def produce_rows(self, rows: Rows) -> None:
        """Queue rows, each on its Pin's partition."""
        # NOTE: produce_batch passes over a partition that is named per message, so there is one call
        # per partition; librdkafka takes one lock for each.
        order = np.argsort(rows.partitions, kind="stable")
        numbers, starts = np.unique(np.array(rows.partitions)[order], return_index=True)
        for number, places in zip(numbers.tolist(), np.split(order, starts[1:]), strict=bool(len(numbers))):
            messages = [{"key": rows.keys[place], "value": rows.values[place]} for place in places.tolist()]
            self._produce(rows.topic, number, messages)
        self._producer.poll(0)

    def _produce(self, topic: str, partition: int, messages: list[dict[str, Any]]) -> None:
        while messages:
            queued = self._producer.produce_batch(
                topic, messages, partition=partition, on_delivery=self._on_delivery
            )
            if queued == len(messages):
                return
            messages = self._refused(topic, messages)

    def produce_message(self, topic: str, key: str, value: bytes) -> None:
        """Queue one message of our own."""
        try:
            self._producer.produce(topic, value, key=key, on_delivery=self._on_delivery)
        except BufferError:
            self._producer.poll(_QUEUE_FULL_SECONDS)
            self._check()
            self.produce_message(topic, key, value)

    def _refused(self, topic: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages that found the queue full, after waiting for room."""
        again = []
        for message in messages:
            error = message.pop("_error", None)
            if error is None:
                continue
            if error.code() != KafkaError._QUEUE_FULL:
                raise DeliveryFailed(f"{topic}: {error}")
            again.append(message)
        self._producer.poll(_QUEUE_FULL_SECONDS)
        self._check()
        return again

    def produce_letter(self, letter: DeadLetter, original_headers: Headers | None) -> None:
        """Queue one dead letter: key and value as they came, or their beginnings if too large."""
        headers: Any = letter_headers(letter, self._sender, original_headers)
        topic, key, value, whole = letter_topic(letter), letter.key, letter.value, True
        while True:
            try:
                self._producer.produce(
                    topic, value=value, key=key, headers=headers, on_delivery=self._on_delivery
                )
                return
            except BufferError:
                self._producer.poll(_QUEUE_FULL_SECONDS)
                self._check()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE or not whole:
                    raise
                # With its story it is too large to be sent on; failing here would repeat for ever.
                key, value, whole = key and key[:_CUT_BYTES], value and value[:_CUT_BYTES], False
                headers = [*letter_headers(letter, self._sender, None), (CUT, b"true")]

    def produce_letters(self, letters: Sequence[tuple[DeadLetter, Headers | None]]) -> None:
        """Queue several dead letters."""
        for letter, headers in letters:
            self.produce_letter(letter, headers)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def wait(self) -> None:
        """Return when the broker has acknowledged everything queued so far.

        Raises as soon as one message has failed: RetryableError when the broker was away for too long,
        DeliveryFailed when it refuses the message.
        """
        try:
            while self._failure is None and self._producer.flush(_FLUSH_SECONDS):
                pass
        except KafkaException as error:
            raise DeliveryFailed(str(error)) from error
        self._check()

    def _check(self) -> None:
        if self._failure is None:
            return
        told = f"{self._failure.str()}: the offsets of this batch are not committed, so it is repeated"
        if self._failure.retriable() or self._failure.code() in _WORTH_ANOTHER_TRY:
            raise RetryableError(told)
        raise DeliveryFailed(told)

    def drop(self) -> None:
        """Forget what the broker does not have yet, and be done."""
        self._producer.purge()
        self._producer.poll(0)
