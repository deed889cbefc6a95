"""Topics as append-only logs with offsets, compaction and retention."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from confluent_kafka import KafkaError

Headers = list[tuple[str, bytes | None]]

_CREATE_TIME = 1


@dataclass(frozen=True)
class SimMessage:
    """A message with the methods of confluent_kafka's."""

    its_topic: str
    its_partition: int
    its_offset: int
    its_timestamp_ms: int
    its_key: bytes | None
    its_value: bytes | None
    its_headers: Headers | None = None
    its_error: KafkaError | None = None

    def topic(self) -> str:
        return self.its_topic

    def partition(self) -> int:
        return self.its_partition

    def offset(self) -> int:
        return self.its_offset

    def timestamp(self) -> tuple[int, int]:
        return _CREATE_TIME, self.its_timestamp_ms

    def key(self) -> bytes | None:
        return self.its_key

    def value(self) -> bytes | None:
        return self.its_value

    def headers(self) -> Headers | None:
        return self.its_headers

    def error(self) -> KafkaError | None:
        return self.its_error


@dataclass
class PartitionLog:
    """One partition. `history` keeps what compaction and retention take, for the checker alone."""

    topic: str
    partition: int
    low: int = 0
    high: int = 0
    records: list[SimMessage] = field(default_factory=list)
    history: list[SimMessage] = field(default_factory=list)
    on_append: Callable[[SimMessage], None] | None = None
    """Told of each record, for a checker that looks at every one."""

    def append(self, key: bytes | None, value: bytes | None, headers: Headers | None, at_ms: int) -> int:
        """Append one record; returns its offset."""
        one = SimMessage(self.topic, self.partition, self.high, at_ms, key, value, headers)
        self.records.append(one)
        self.history.append(one)
        self.high += 1
        if self.on_append is not None:
            self.on_append(one)
        return one.its_offset

    def read(self, offset: int, count: int) -> list[SimMessage]:
        """Up to `count` records from `offset` on."""
        first = bisect_left(self.records, offset, key=SimMessage.offset)
        return self.records[first : first + count]

    def compact(self, before: int) -> None:
        """Keep the newest record per key among those below `before`, as the log cleaner does.

        The active segment starts at `before`; it is neither cleaned nor does it overrule older records.
        """
        newest = {one.its_key: one.its_offset for one in self.records if one.its_offset < before}
        self.records = [
            one for one in self.records if one.its_offset >= before or newest[one.its_key] == one.its_offset
        ]

    def trim(self, before: int) -> None:
        """Retention: records below `before` are gone."""
        self.low = max(self.low, min(before, self.high))
        self.records = [one for one in self.records if one.its_offset >= self.low]


class SimTopics:
    """All logs of a cluster."""

    def __init__(self, names: dict[str, bool], partitions: int) -> None:
        """`names`: topic -> whether it is compacted."""
        self.compacted = [name for name, compacted in names.items() if compacted]
        self.partitions = partitions
        self._logs = {name: [PartitionLog(name, n) for n in range(partitions)] for name in names}

    @property
    def names(self) -> list[str]:
        """All topics."""
        return list(self._logs)

    def log(self, topic: str, partition: int) -> PartitionLog:
        """One partition's log."""
        return self._logs[topic][partition]

    def of(self, topic: str) -> list[PartitionLog]:
        """All partitions of a topic."""
        return self._logs[topic]
