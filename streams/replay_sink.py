"""Where a replay's events go: a Kafka producer in bulk, and the lag of those who consume them."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.errors import RetryableError

from .kafka import KafkaSettings, consumer_config, producer_config

log = logging.getLogger(__name__)

_ASK_SECONDS = 10.0
_FLUSH_SECONDS = 1.0
_QUEUE_FULL_SECONDS = 0.05


class GroupLag:
    """Events of some topics that a consumer group has not committed, by the brokers' own figures."""

    def __init__(self, settings: KafkaSettings, group: str, topics: Iterable[str]) -> None:
        """Asks only; never joins the group."""
        self._consumer = Consumer(consumer_config(settings, group), logger=log)
        self._topics = list(topics)

    def __call__(self) -> int:
        """Events between the group's committed offsets and the ends, summed over partitions.

        Raises RetryableError when the brokers do not answer.
        """
        try:
            partitions = [TopicPartition(topic, n) for topic in self._topics for n in self._numbers(topic)]
            committed = self._consumer.committed(partitions, timeout=_ASK_SECONDS)
            return sum(self._behind(one) for one in committed)
        except KafkaException as error:
            raise RetryableError(f"lag: {error}") from error

    def _numbers(self, topic: str) -> list[int]:
        metadata = self._consumer.list_topics(topic, timeout=_ASK_SECONDS)
        return sorted(metadata.topics[topic].partitions)

    def _behind(self, committed: TopicPartition) -> int:
        low, high = self._consumer.get_watermark_offsets(
            TopicPartition(committed.topic, committed.partition), timeout=_ASK_SECONDS
        )
        return max(high - max(committed.offset, low), 0)

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()


class KafkaSink:
    """A producer that takes thousands of events in one call. Its events carry no CloudEvents headers.

    Headers would need one call per event, at several times the cost; a replay's events are named by
    their topic, and repeating them is harmless without an id.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        lags: Iterable[Callable[[], int]] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        """`lags`: what to keep small, summed; none means: never wait. `overrides`: producer configuration."""
        config = {"delivery.report.only.error": True, "batch.size": 1 << 20, "linger.ms": 5}
        self._producer = Producer(producer_config(settings, config | dict(overrides or {})), logger=log)
        self._lags = list(lags)
        self._failure: KafkaError | None = None

    def send(self, topic: str, keys: list[bytes], values: list[bytes]) -> None:
        """Send in order; returns when the broker has all. Raises RetryableError when it refuses one."""
        messages: list[dict[str, Any]] = [
            {"key": key, "value": value} for key, value in zip(keys, values, strict=True)
        ]
        while messages:
            queued = self._producer.produce_batch(topic, messages, on_delivery=self._on_delivery)
            self._producer.poll(0)
            if queued == len(messages):
                break
            messages = self._refused(messages)
        while self._failure is None and self._producer.flush(_FLUSH_SECONDS):
            pass
        if self._failure is not None:
            raise RetryableError(
                f"{topic}: {self._failure.str()}; run the replay again, it goes on from here"
            )

    def _refused(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What found the local queue full, after waiting for room."""
        again = []
        for message in messages:
            error = message.pop("_error", None)
            if error is None:
                continue
            if error.code() != KafkaError._QUEUE_FULL:
                raise RetryableError(str(error))
            again.append(message)
        self._producer.poll(_QUEUE_FULL_SECONDS)
        return again

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def lag(self) -> int:
        """See `streams.replay.Sink`."""
        return sum(lag() for lag in self._lags)
