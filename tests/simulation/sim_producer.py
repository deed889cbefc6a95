"""The producer of confluent_kafka, idempotent, on the simulated broker."""

import functools
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import KafkaError

from streams.murmur2 import partitions_of

from .scheduler import Process
from .sim_broker import SimBroker
from .sim_group import Place
from .sim_log import Headers, SimMessage

Report = Callable[[KafkaError | None, SimMessage], None]

_QUEUE_FULL_SHARE = 0.004


@functools.cache
def partition_of(key: bytes | None, partitions: int) -> int:
    """Partition of a key; every simulated client hashes alike: a Pin's id as our clients do."""
    if key is not None and key.isdigit():
        return int(partitions_of(np.array([int(key)]), partitions)[0])
    return zlib.crc32(key or b"") % partitions


@dataclass(eq=False)
class _Queued:
    """A message that the client has not seen acknowledged."""

    place: Place
    key: bytes | None
    value: bytes | None
    headers: Headers | None
    report: Report | None
    expires_at: float
    failed: bool = False


@dataclass(eq=False)
class _Lane:
    """Messages of one partition, in order: queued, on the wire, appended and not acknowledged."""

    queue: deque[_Queued] = field(default_factory=deque)
    wire: list[_Queued] = field(default_factory=list)
    appended: list[_Queued] = field(default_factory=list)
    sending: bool = False


class SimProducer:
    """Sends go out by themselves, one request per partition at a time, so order is kept."""

    def __init__(self, config: dict[str, Any], process: Process, broker: SimBroker) -> None:
        assert config["enable.idempotence"] is True and config["acks"] == "all"
        self._process, self._broker, self._world = process, broker, broker.world
        timeout_ms = config.get("delivery.timeout.ms", config.get("message.timeout.ms", 300_000))
        self._timeout_seconds = timeout_ms / 1000
        self._only_errors = bool(config.get("delivery.report.only.error", False))
        self._lanes: dict[Place, _Lane] = {}
        self._reports: deque[tuple[KafkaError | None, _Queued]] = deque()
        broker.when_touch_changes(self._send_all)

    def produce_batch(
        self, topic: str, messages: list[dict[str, Any]], partition: int = -1, on_delivery: Any = None
    ) -> int:
        """How many were queued; the others have `_error`."""
        self._process.call(f"produce_batch {topic}[{partition}] {len(messages)}", hand_over=True)
        queued = 0
        for message in messages:
            if self._world.rng.random() < _QUEUE_FULL_SHARE:
                message["_error"] = KafkaError(KafkaError._QUEUE_FULL)
                continue
            queued += 1
            self._queue(topic, partition, message["key"], message["value"], None, on_delivery)
        self._process.call("produced", hand_over=True)
        return queued

    def produce(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int = -1,
        on_delivery: Any = None,
        headers: Any = None,
    ) -> None:
        """Queue one message; raises BufferError when there is no room."""
        self._process.call(f"produce {topic}", hand_over=True)
        if self._world.rng.random() < _QUEUE_FULL_SHARE:
            raise BufferError
        self._queue(topic, partition, key, value, headers, on_delivery)

    def _queue(
        self, topic: str, partition: int, key: Any, value: Any, headers: Any, on_delivery: Any
    ) -> None:
        key = key.encode() if isinstance(key, str) else key
        value = value.encode() if isinstance(value, str) else value
        number = partition if partition >= 0 else partition_of(key, self._broker.topics.partitions)
        place = (topic, number)
        expires_at = self._world.time.now + self._timeout_seconds
        one = _Queued(place, key, value, headers, on_delivery, expires_at)
        lane = self._lanes.setdefault(place, _Lane())
        lane.queue.append(one)
        self._send_later(lane, self._world.rng.random() * self._broker.network.linger_seconds)

    def _send_all(self) -> None:
        for lane in self._lanes.values():
            self._send_later(lane, 0.0)

    def _send_later(self, lane: _Lane, seconds: float) -> None:
        if not lane.sending and not lane.wire and lane.queue:
            lane.sending = True
            self._world.time.after(seconds, lambda: self._send(lane))

    def _send(self, lane: _Lane) -> None:
        """Put the first queued messages on the wire as one request."""
        lane.sending = False
        self._expire()
        if lane.wire or not lane.queue or not self._broker.in_touch(self._process):
            return
        count = self._world.rng.randint(1, len(lane.queue))
        lane.wire = [lane.queue.popleft() for _ in range(count)]
        self._world.time.after(
            self._world.rng.random() * self._broker.network.wire_seconds, lambda: self._arrive(lane)
        )

    def _arrive(self, lane: _Lane) -> None:
        """The request reaches the broker, whatever has become of its sender; a broken line loses it."""
        sent, lane.wire = lane.wire, []
        if not self._broker.up or self._process.cut:
            lane.queue.extendleft(one for one in reversed(sent) if not one.failed)
            return
        for one in sent:
            log = self._broker.topics.log(*one.place)
            offset = log.append(one.key, one.value, one.headers, self._broker.wall_ms())
            self._world.trace(
                self._process.name, f"appends {one.place[0]}[{one.place[1]}]@{offset} {one.key!r}"
            )
        lane.appended += sent
        delay = self._world.rng.random() * self._broker.network.acknowledge_seconds
        self._world.time.after(delay, lambda: self._acknowledge(lane, sent))
        self._send_later(lane, 0.0)

    def _acknowledge(self, lane: _Lane, sent: list[_Queued]) -> None:
        if self._process.killed_at is not None or self._process.ended:
            return
        if not self._broker.in_touch(self._process):
            # The client asks again; the broker knows the sequence numbers and says yes.
            self._world.time.after(0.05, lambda: self._acknowledge(lane, sent))
            return
        for one in sent:
            lane.appended.remove(one)
            if not one.failed and not self._only_errors:
                self._reports.append((None, one))

    def _expire(self) -> None:
        now = self._world.time.now
        for lane in self._lanes.values():
            for one in [*lane.appended, *lane.wire, *lane.queue]:
                if one.expires_at <= now and not one.failed:
                    self._fail(one, KafkaError._MSG_TIMED_OUT)
            lane.queue = deque(one for one in lane.queue if not one.failed)

    def _fail(self, one: _Queued, code: int) -> None:
        one.failed = True
        self._reports.append((KafkaError(code), one))

    def __len__(self) -> int:
        waiting = sum(
            not one.failed
            for lane in self._lanes.values()
            for one in [*lane.appended, *lane.wire, *lane.queue]
        )
        return waiting + len(self._reports)

    def _serve(self) -> int:
        served = 0
        while self._reports:
            error, one = self._reports.popleft()
            served += 1
            if one.report is not None:
                one.report(error, SimMessage(*one.place, -1, 0, one.key, one.value, one.headers, error))
        return served

    def poll(self, timeout: float = 0.0) -> int:
        """Serve delivery reports."""
        self._process.call("poll", hand_over=not timeout)
        if timeout and not self._reports:
            self._process.block(self._world.time.now + timeout, lambda: bool(self._reports))
        self._expire()
        return self._serve()

    def flush(self, timeout: float = -1.0) -> int:
        """Wait until nothing is outstanding; what is after the timeout."""
        self._process.call("flush")
        deadline = self._world.time.now + (timeout if timeout >= 0 else 1e9)
        while True:
            self._expire()
            self._serve()
            if not len(self) or self._world.time.now >= deadline:
                self._process.call(f"flushed, {len(self)} left")
                return len(self)
            self._process.block(
                min(deadline, self._next_expiry()), lambda: bool(self._reports) or not len(self)
            )

    def _next_expiry(self) -> float:
        return min(
            (
                one.expires_at
                for lane in self._lanes.values()
                for one in [*lane.appended, *lane.wire, *lane.queue]
                if not one.failed
            ),
            default=1e18,
        )

    def purge(self, in_queue: bool = True, in_flight: bool = True, blocking: bool = True) -> None:
        """Give up what is queued; what is on the wire may still arrive."""
        self._process.call("purge")
        for lane in self._lanes.values():
            gone = [*(lane.queue if in_queue else ()), *([*lane.wire, *lane.appended] if in_flight else ())]
            for one in gone:
                if not one.failed:
                    self._fail(one, KafkaError._PURGE_QUEUE)
            lane.queue = deque(one for one in lane.queue if not one.failed)
