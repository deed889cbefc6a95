"""Publish Pin changes, aggregates, visits and engagements to Kafka, and know that they arrived."""

import atexit
import logging
import signal
import sys
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType, TracebackType
from typing import Literal, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.cloudevents import cloudevent_headers, iso
from schemas.codec import MAX_EVENT_BYTES, encode
from schemas.errors import DeadLetterReason, InvalidMessage, Refused
from schemas.events import EngagementObserved, PinAggregated, PinChanged, VisitObserved
from schemas.transport import remote_hosts

log = logging.getLogger(__name__)

KafkaHeaders = list[tuple[str, str | bytes | None]]

PinEvent = PinChanged | PinAggregated | VisitObserved | EngagementObserved
"""What other teams publish about a Pin; each goes to the topic that its type names."""

_QUEUE_FULL_SECONDS = 0.1
_FLUSH_SECONDS = 1.0
_KEPT_ERRORS = 10
_KEPT_IDS = 1_000_000
"""Ids of failed events that are kept for the next `flush`, which some producers never call."""


@dataclass(frozen=True)
class ProducerSettings:
    """Where to publish and as whom. `source` is the CloudEvents source: the publishing system's name.

    Raises Refused for an unencrypted connection to another host, unless `allow_plaintext`.
    """

    bootstrap_servers: str
    source: str
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_ca_location: str | None = None
    allow_plaintext: bool = False
    delivery_timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        remote = remote_hosts(self.bootstrap_servers)
        if "PLAINTEXT" in self.security_protocol and remote and not self.allow_plaintext:
            raise Refused(
                "kafka_plaintext",
                expected="SSL or SASL_SSL to a host that is not this one",
                came=f"{self.security_protocol} to {', '.join(remote)}",
                fix="Set security_protocol to SASL_SSL, or allow_plaintext in so many words.",
            )

    def config(self) -> dict[str, str | int | float | bool]:
        """Configuration of the Kafka client. Holds the password in clear: do not log it.

        Keys are hashed with murmur2, as the Java clients do, so a Pin is on one partition whoever wrote.
        """
        config: dict[str, str | int | float | bool] = {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": self.source,
            "security.protocol": self.security_protocol,
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "linger.ms": 10,
            "partitioner": "murmur2_random",
            "delivery.timeout.ms": int(self.delivery_timeout_seconds * 1000),
        }
        if self.security_protocol.startswith("SASL"):
            config["sasl.mechanism"] = self.sasl_mechanism
            config["sasl.username"] = self.sasl_username or ""
            config["sasl.password"] = self.sasl_password or ""
        if self.ssl_ca_location is not None:
            config["ssl.ca.location"] = self.ssl_ca_location
        return config


@dataclass
class DeliveryCounts:
    """What became of the events that were sent: each is in exactly one of the first three.

    `NotDelivered` has what failed until then; after it `failed` and `errors` begin anew.
    """

    acked: int = 0
    failed: int = 0
    in_flight: int = 0
    errors: list[str] = field(default_factory=list)
    """What the first few failures said."""


class NotDelivered(Exception):
    """Some events did not reach Kafka. `counts` says how many, `event_ids` which: send those again.

    `event_ids` has every event that failed since the last `flush`, in the order in which they failed; of more
    than a million the newest million.
    """

    def __init__(self, counts: DeliveryCounts, event_ids: Sequence[str] = ()) -> None:
        said = "; ".join(counts.errors) or "no answer from the broker"
        super().__init__(
            f"{counts.failed} events failed and {counts.in_flight} were not answered ({said}); "
            f"{counts.acked} arrived"
        )
        self.counts = counts
        self.event_ids = tuple(event_ids)


class PinProducer:
    """Publishes events, keyed by Pin id, with CloudEvents headers. A context manager.

    Not thread-safe. `send` queues; the broker's answers are counted in `counts`; `flush` and `close` wait
    for all of them and raise when one event did not arrive: nothing else tells. A process that ends without
    `close` waits too, and logs how much was lost; `exit_on_sigterm`, called once, has that on SIGTERM too.
    """

    def __init__(self, settings: ProducerSettings) -> None:
        self._settings = settings
        self._producer: Producer = Producer(settings.config(), logger=log)
        self._closed = False
        self.counts = DeliveryCounts()
        self._failed_ids: deque[str] = deque(maxlen=_KEPT_IDS)
        atexit.register(self._at_exit)

    def send(self, event: PinEvent, *, event_id: str | None = None) -> str:
        """Queue one event; returns its CloudEvents id (a random UUID unless given).

        The same id again marks a repetition. Raises InvalidMessage for an event over the size limit and
        KafkaException for one that the Kafka client does not take.
        """
        value = encode(event)
        if len(value) > MAX_EVENT_BYTES:
            raise InvalidMessage(DeadLetterReason.TOO_LARGE, f"{len(value)} bytes, at most {MAX_EVENT_BYTES}")
        event_id = event_id or str(uuid.uuid4())
        headers: KafkaHeaders = [
            *cloudevent_headers(
                event_id=event_id,
                source=self._settings.source,
                type_name=event.type_name,
                time_iso=iso(event.occurred_at_ms),
            )
        ]
        self._produce(event.type_name, str(event.pin_id).encode(), value, headers, event_id)
        return event_id

    def send_many(self, events: Iterable[PinEvent]) -> list[str]:
        """Queue several events in order; returns their ids."""
        return [self.send(event) for event in events]

    def _produce(self, topic: str, key: bytes, value: bytes, headers: KafkaHeaders, event_id: str) -> None:
        if self._closed:
            raise RuntimeError("this PinProducer is closed")
        # Counted before it is queued: a signal in between may make us wait for an answer in vain, but
        # never take an unanswered event for answered.
        self.counts.in_flight += 1
        answered = partial(self._on_delivery, event_id)
        while True:
            try:
                self._producer.produce(topic, value=value, key=key, headers=headers, on_delivery=answered)
                break
            except BufferError:
                # The local queue is full: let answers in, which makes room.
                self._producer.poll(_QUEUE_FULL_SECONDS)
            except KafkaException:
                self.counts.in_flight -= 1
                raise
        self._producer.poll(0)

    def _on_delivery(self, event_id: str, error: KafkaError | None, message: Message) -> None:
        self.counts.in_flight -= 1
        if error is None:
            self.counts.acked += 1
            return
        self.counts.failed += 1
        self._failed_ids.append(event_id)
        if len(self.counts.errors) < _KEPT_ERRORS:
            self.counts.errors.append(f"{event_id}, {message.topic()} {message.key()!r}: {error.str()}")

    def flush(self) -> None:
        """Wait until everything sent so far has arrived.

        Raises NotDelivered, which names what did not. The next `flush` tells only what fails after that.
        """
        while self._producer.flush(_FLUSH_SECONDS):
            # Ends by itself: an event is answered for or fails within delivery_timeout_seconds.
            pass
        counts, failed = self.counts, self._failed_ids
        if counts.failed or counts.in_flight:
            self.counts, self._failed_ids = DeliveryCounts(acked=counts.acked), deque(maxlen=_KEPT_IDS)
            raise NotDelivered(counts, failed)

    def close(self) -> None:
        """Flush and end. Twice is harmless. Raises NotDelivered when an event did not arrive."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._at_exit)
        self.flush()

    def _at_exit(self) -> None:
        try:
            self.close()
        except NotDelivered as error:
            log.error("%s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as `sys.exit` does, so that producers get to wait for their answers.

    For the main thread of a process that has no handler of its own.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
