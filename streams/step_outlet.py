"""Where a step's rows and letters go: Kafka, acknowledged, or an error that says to try again."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.errors import RetryableError

from .dead_letters import CUT, Headers, letter_headers, letter_topic
from .kafka import KafkaClients, KafkaSettings, producer_config
from .sources import DeadLetter
from .steps import Output, TurnedDown

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 0.5
_QUEUE_FULL_SECONDS = 0.1
_CUT_BYTES = 65_536
"""What is kept of the key and of the value of a letter that Kafka does not take whole."""


class StepOutlet(Protocol):
    """Sends what a step returned."""

    def send(self, outputs: Sequence[Output], letters: Sequence[TurnedDown]) -> None:
        """Return when the broker has everything. Raises RetryableError when it may not have; send again."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


class KafkaStepOutlet:
    """An idempotent producer of rows and dead letters; made anew after anything went wrong with it."""

    def __init__(
        self, settings: KafkaSettings, step: str, worker: str, clients: KafkaClients | None = None
    ) -> None:
        self._make: Callable[[Any], Producer] = (clients or KafkaClients()).producer
        # A row that a worker could not get rid of within its session is no longer its to send.
        overrides = {
            "delivery.report.only.error": True,
            "delivery.timeout.ms": settings.session_timeout_ms,
            "linger.ms": 5,
        }
        self._config = producer_config(settings, overrides)
        self._step, self._worker = step, worker
        self._producer: Producer | None = None
        self._failure: KafkaError | None = None

    def send(self, outputs: Sequence[Output], letters: Sequence[TurnedDown]) -> None:
        """See `StepOutlet`. Letters go first: a row may be made again, a lost letter is lost."""
        if not outputs and not letters:
            return
        if self._producer is None:
            self._producer, self._failure = self._make(self._config), None
        try:
            for letter in letters:
                self._letter(self._producer, letter)
            for one in outputs:
                where = {} if one.partition is None else {"partition": one.partition}
                self._produce(self._producer, one.topic, key=one.key, value=one.value, **where)
            while self._failure is None and self._producer.flush(_FLUSH_SECONDS):
                pass
        except KafkaException as error:
            self._failure = error.args[0]
        if self._failure is not None:
            # What is still queued would otherwise arrive after its repetition, and an idempotent
            # producer that has lost a message takes no more.
            reason = self._failure.str()
            self.close()
            raise RetryableError(f"Kafka did not take what {self._step} sent: {reason}")

    def _letter(self, producer: Producer, turned_down: TurnedDown) -> None:
        event = turned_down.event
        letter = DeadLetter(
            topic=event.topic,
            row=0,
            partition=event.partition,
            offset=event.offset,
            ingested_at_ms=event.ingested_at_ms,
            key=event.key,
            value=event.value,
            reason=turned_down.reason,
            message=turned_down.message,
        )
        headers = letter_headers(letter, self._worker, event.headers, stage=self._step)
        try:
            self._produce(producer, letter_topic(letter), key=event.key, value=event.value, headers=headers)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise
            # With its story it is too large to be sent on; failing here would repeat for ever.
            key, value = event.key and event.key[:_CUT_BYTES], event.value and event.value[:_CUT_BYTES]
            short: Headers = [*letter_headers(letter, self._worker, None, stage=self._step), (CUT, b"true")]
            self._produce(producer, letter_topic(letter), key=key, value=value, headers=short)

    def _produce(self, producer: Producer, topic: str, **message: Any) -> None:
        while self._failure is None:
            try:
                producer.produce(topic, on_delivery=self._on_delivery, **message)
                return
            except BufferError:
                producer.poll(_QUEUE_FULL_SECONDS)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def close(self) -> None:
        """See `StepOutlet`; what is queued is dropped."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(_FLUSH_SECONDS)
            self._producer = None
