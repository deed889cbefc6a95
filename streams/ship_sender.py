"""The shipper's Kafka producer: idempotent, acknowledged as a whole, made anew after a failure."""

import logging
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.errors import RetryableError

from .dead_letters import Headers
from .kafka import KafkaClients, KafkaSettings, producer_config

log = logging.getLogger(__name__)

_ASK_SECONDS = 10.0
_FLUSH_SECONDS = 1.0
_QUEUE_FULL_SECONDS = 0.1
_DELIVERY_TIMEOUT_MS = 30_000


class KafkaSender:
    """`streams.shipping.Sender` on Kafka. Close it."""

    def __init__(self, settings: KafkaSettings, ask_seconds: float = _ASK_SECONDS) -> None:
        overrides = {"delivery.report.only.error": True, "delivery.timeout.ms": _DELIVERY_TIMEOUT_MS}
        self._config = producer_config(settings, overrides)
        self._address = settings.bootstrap_servers
        self._ask_seconds = ask_seconds
        self._producer: Producer | None = None
        self._failure: KafkaError | None = None

    def cluster_id(self) -> str:
        """See `Sender`."""
        try:
            return str(self._client().list_topics(timeout=self._ask_seconds).cluster_id)
        except KafkaException as error:
            self._drop()
            raise RetryableError(f"Kafka at {self._address} is out of reach: {error}") from error

    def send(self, topic: str, key: bytes | None, value: bytes, headers: Headers) -> None:
        """See `Sender`."""
        pairs: Any = headers
        while self._failure is None:
            try:
                self._client().produce(topic, value, key, headers=pairs, on_delivery=self._on_delivery)
                self._client().poll(0)
                return
            except BufferError:
                self._client().poll(_QUEUE_FULL_SECONDS)
            except KafkaException as error:
                self._drop()
                raise RetryableError(f"{topic}: {error}") from error
        self._fail()

    def wait(self) -> None:
        """See `Sender`."""
        try:
            while self._failure is None and self._client().flush(_FLUSH_SECONDS):
                pass
        except KafkaException as error:
            self._drop()
            raise RetryableError(str(error)) from error
        if self._failure is not None:
            self._fail()

    def _fail(self) -> None:
        """What is queued is dropped with its producer: it is sent again from the files."""
        failure = self._failure
        self._drop()
        raise RetryableError(f"{self._address}: {failure.str() if failure else 'not delivered'}")

    def _client(self) -> Producer:
        if self._producer is None:
            self._producer = KafkaClients().producer(self._config)
        return self._producer

    def _drop(self) -> None:
        producer, self._producer, self._failure = self._producer, None, None
        if producer is not None:
            producer.purge()
            producer.flush(_FLUSH_SECONDS)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def close(self) -> None:
        """Drop what is queued and end the connection."""
        self._drop()
