"""What a consumer can ask the broker, in the words of confluent_kafka."""

from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, OFFSET_INVALID, TopicPartition

from .scheduler import Process
from .sim_broker import ASK_SECONDS, SimBroker


@dataclass(frozen=True)
class _TopicMetadata:
    partitions: dict[int, None]


@dataclass(frozen=True)
class _Metadata:
    cluster_id: str
    topics: dict[str, _TopicMetadata]


class BrokerQuestions:
    """Questions that need no group. Each raises KafkaException when no answer comes in time."""

    def __init__(self, process: Process, broker: SimBroker) -> None:
        self._process, self._broker, self._world = process, broker, broker.world
        self._group = broker.group

    def list_topics(self, topic: str | None = None, timeout: float = ASK_SECONDS) -> _Metadata:
        """Topics and their partitions."""
        self._broker.ask(self._process, "list_topics", timeout)
        numbers = dict.fromkeys(range(self._broker.topics.partitions))
        names = self._broker.topics.names if topic is None else [topic]
        return _Metadata(self._broker.cluster_id, {name: _TopicMetadata(numbers) for name in names})

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float = ASK_SECONDS, cached: bool = False
    ) -> tuple[int, int]:
        """First offset and end."""
        log = self._broker.topics.log(partition.topic, partition.partition)
        if not cached:
            self._broker.ask(self._process, f"watermarks {partition.topic}[{partition.partition}]", timeout)
        return log.low, log.high

    def committed(
        self, partitions: list[TopicPartition], timeout: float = ASK_SECONDS
    ) -> list[TopicPartition]:
        """The group's offsets."""
        self._broker.ask(self._process, "committed", timeout)
        return [
            TopicPartition(
                one.topic,
                one.partition,
                self._group.committed.get((one.topic, one.partition), OFFSET_INVALID),
            )
            for one in partitions
        ]

    def offsets_for_times(
        self, partitions: list[TopicPartition], timeout: float = ASK_SECONDS
    ) -> list[TopicPartition]:
        """First offsets (OFFSET_BEGINNING) or ends (OFFSET_END); other times are not kept."""
        self._broker.ask(self._process, f"offsets of {len(partitions)} partitions", timeout)
        found = []
        for one in partitions:
            log = self._broker.topics.log(one.topic, one.partition)
            assert one.offset in (OFFSET_BEGINNING, OFFSET_END)
            offset = log.low if one.offset == OFFSET_BEGINNING else log.high
            found.append(TopicPartition(one.topic, one.partition, offset))
        return found
