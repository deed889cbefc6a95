"""The load: events that keep coming, at a pace, up to what has been allowed so far."""

import threading
import time
from collections.abc import Iterator

from confluent_kafka import KafkaError, Message, Producer

from streams.kafka import KafkaSettings, producer_config
from tests.streams.enrichment_oracle import messages
from tests.streams.kill_suite.plan import Plan

Ends = dict[tuple[str, int], int]
"""(topic, partition) -> next offset."""

_TICK_SECONDS = 0.01
_FLUSH_SECONDS = 60.0


class Workload:
    """Publishes a plan's events from a thread of its own. `delivered` is what the broker acknowledged."""

    def __init__(self, settings: KafkaSettings, plan: Plan) -> None:
        self._producer = Producer(producer_config(settings, {"linger.ms": 5, "log_level": 0}))
        self._messages = messages(plan.events, plan.pins, plan.seed)
        self._a_tick = plan.events_per_second * _TICK_SECONDS
        self._allowed = self._published = 0
        self._stopped = threading.Event()
        self._delivered: Ends = {}
        self.acknowledged = 0
        self._failure: KafkaError | None = None
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)
        self._thread.start()

    def allow(self, events: int) -> None:
        """Publish up to so many events of the plan; never fewer than allowed before."""
        self._allowed = max(self._allowed, events)

    @property
    def delivered(self) -> Ends:
        """Ends of the source partitions as far as this load goes."""
        assert self._failure is None, self._failure
        return dict(self._delivered)

    def _run(self) -> None:
        credit = 0.0
        while not self._stopped.wait(_TICK_SECONDS):
            credit = min(credit + self._a_tick, self._allowed - self._published)
            for topic, key, value in self._next(int(credit)):
                self._producer.produce(topic, value, key=key, on_delivery=self._on_delivery)
            credit -= int(credit)
            self._producer.poll(0)

    def _next(self, count: int) -> Iterator[tuple[str, bytes, bytes]]:
        for _, message in zip(range(count), self._messages, strict=False):
            self._published += 1
            yield message

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failure = error
            return
        where = (str(message.topic()), int(message.partition() or 0))
        self._delivered[where] = max(self._delivered.get(where, 0), int(message.offset() or 0) + 1)
        self.acknowledged += 1

    def finish(self) -> None:
        """Publish what was allowed, acknowledged, and end the thread."""
        deadline = time.monotonic() + _FLUSH_SECONDS
        while self.acknowledged < self._allowed and self._failure is None and time.monotonic() < deadline:
            self._stopped.wait(_TICK_SECONDS)
        self.close()
        assert self._failure is None, self._failure
        assert self.acknowledged == self._allowed, f"{self.acknowledged} of {self._allowed} events published"

    def close(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()
        self._producer.flush(1)
