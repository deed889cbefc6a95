"""Reading a topic to look at it: partitions assigned by hand, no group joined, nothing committed."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

# Public, but missing from the package's __all__.
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from schemas.errors import Refused, RetryableError

from .dead_letters import Headers, headers_of
from .kafka import KafkaSettings, consumer_config, producer_config

log = logging.getLogger(__name__)

ASK_SECONDS = 5.0
_GROUP = "skewless-reader"
"""Consumers have to name one; as partitions are assigned by hand, nobody joins it."""
_CRITICAL = 2
_READ_COUNT = 500
_WAIT_SECONDS = 0.2
_MOVING = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}
_MOVING_SECONDS = 0.1
_SILENT_TURNS = 150
"""So many empty reads in a row (30 s) before the end of a topic: no broker answers any more."""


@dataclass(frozen=True)
class Record:
    """One message as the broker has it. `timestamp_ms` is the broker's, or the producer's if it says so."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


Span = tuple[int, int]
"""First offset, and the one after the last."""

Spans = Mapping[int, Span]
"""Partition -> offsets."""


class TopicReader:
    """A consumer outside of every group. A context manager.

    Raises RetryableError when Kafka is out of reach or falls silent.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._address = settings.bootstrap_servers
        # One line of ours says what is wrong; librdkafka would say it again every second.
        quiet = {"log_level": _CRITICAL}
        overrides = {"enable.partition.eof": True, "queued.max.messages.kbytes": 16_384}
        self._consumer = Consumer(consumer_config(settings, _GROUP, quiet | overrides), logger=log)
        self._admin = AdminClient(
            producer_config(settings, quiet | {"enable.idempotence": False}), logger=log
        )

    def topics(self) -> dict[str, int]:
        """Every topic of the cluster and how many partitions it has."""
        # NOTE: asked for all of them; asking for one makes some brokers create it.
        try:
            metadata = self._admin.list_topics(timeout=ASK_SECONDS)
        except KafkaException as error:
            raise RetryableError(
                f"Kafka at {self._address} is out of reach: {error.args[0].str()}"
            ) from error
        return {name: len(one.partitions) for name, one in metadata.topics.items()}

    def spans(self, topic: str) -> dict[int, Span]:
        """Offsets of each partition from the beginning to the end as of now. Raises Refused without topic."""
        topics = self.topics()
        if not topics.get(topic):
            raise Refused(
                "unknown_topic",
                expected=f"topic {topic} on {self._address}",
                came=f"{len(topics)} topics, none of that name",
                fix="`skewless topics` creates ours; `skewless schema` lists them.",
            )
        partitions = range(topics[topic])
        first = self._offsets(topic, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        after = self._offsets(topic, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return {number: (first[number], after[number]) for number in partitions}

    def _offsets(self, topic: str, partitions: range, spec: OffsetSpec) -> dict[int, int]:
        asked = {TopicPartition(topic, number): spec for number in partitions}
        deadline = time.monotonic() + ASK_SECONDS
        while True:
            try:
                answers = self._admin.list_offsets(asked, request_timeout=ASK_SECONDS)
                return {
                    one.partition: int(answer.result(ASK_SECONDS).offset) for one, answer in answers.items()
                }
            except (KafkaException, TimeoutError) as error:
                # A partition between two leaders, or of a topic that was made just now, has one in a moment.
                moving = isinstance(error, KafkaException) and error.args[0].code() in _MOVING
                if not moving or time.monotonic() > deadline:
                    raise RetryableError(f"{topic}: {error}") from error
                time.sleep(_MOVING_SECONDS)

    def read(self, topic: str, spans: Spans) -> Iterator[list[Record]]:
        """The messages of these spans in batches, those of one partition in order; each batch is fresh."""
        left = {number: end for number, (start, end) in spans.items() if start < end}
        self._assign(topic, {number: spans[number][0] for number in left})
        silent = 0
        while left:
            messages = self._consume()
            silent = 0 if messages else silent + 1
            if silent > _SILENT_TURNS:
                raise RetryableError(f"{topic}: {self._address} has fallen silent; try again")
            batch = [
                _record(one)
                for one in messages
                if not one.error() and _offset(one) < left.get(_number(one), 0)
            ]
            for one in messages:
                # An end-of-partition note ends a span too: its last offsets may hold nothing.
                if _number(one) in left and _offset(one) + (not one.error()) >= left[_number(one)]:
                    del left[_number(one)]
                    self._consumer.pause([TopicPartition(topic, _number(one))])
            if batch:
                yield batch

    def follow(
        self, topic: str, starts: Mapping[int, int], stopped: Callable[[], bool]
    ) -> Iterator[list[Record]]:
        """The messages from these offsets on, as they come, until `stopped()`."""
        self._assign(topic, starts)
        while not stopped():
            batch = [_record(one) for one in self._consume() if not one.error()]
            if batch:
                yield batch

    def _assign(self, topic: str, starts: Mapping[int, int]) -> None:
        partitions = [TopicPartition(topic, number, at) for number, at in starts.items()]
        self._consumer.assign(partitions)
        # NOTE: a pause outlives its assignment.
        self._consumer.resume(partitions)

    def _consume(self) -> list[Message]:
        messages = self._consumer.consume(_READ_COUNT, _WAIT_SECONDS)
        return [one for one in messages if _is_of_use(one.error())]

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_of_use(error: KafkaError | None) -> bool:
    """A message, or the note that a partition has ended; a lasting error is raised, a passing one dropped."""
    if error is None or error.code() == KafkaError._PARTITION_EOF:
        return True
    if error.fatal() or not error.retriable():
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE):
            return False
        raise RetryableError(error.str())
    return False


def _number(message: Message) -> int:
    return int(message.partition() or 0)


def _offset(message: Message) -> int:
    return int(message.offset() or 0)


def _record(message: Message) -> Record:
    return Record(
        topic=str(message.topic()),
        partition=_number(message),
        offset=_offset(message),
        timestamp_ms=int(message.timestamp()[1]),
        key=message.key(),
        value=message.value(),
        headers=headers_of(message) or [],
    )
