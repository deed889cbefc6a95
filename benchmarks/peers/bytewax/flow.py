"""The job in Bytewax, in its fastest form: `batch`.

Whole batches go through one `flat_map_batch` step: orjson, state in a plain dict that is lost with the
process (no recovery store), one forward of the tower per batch. Rows go out through a producer of one's
own and are flushed, then the offsets of the batch are committed, per batch of one partition.
"""

from collections.abc import Iterable
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from benchmarks.peers.arguments import WorkerArguments, parse_arguments
from benchmarks.peers.job import SOURCE, TARGET, Entry, merge_all, rows
from benchmarks.peers.tower_numpy import NumpyTower

FORMS = ("batch",)
BATCH_EVENTS = 8192
"""Of each partition; all of them are taken in one round, so a larger one leaves the benchmark one round."""

Done = tuple[int, int]
"""Partition and next offset of a batch whose rows are queued."""


def build_flow(arguments: WorkerArguments) -> Dataflow:
    """Source, one step, sink."""
    tower = NumpyTower(arguments.towers, arguments.version)
    servers = {"bootstrap.servers": arguments.bootstrap_servers}
    producer = Producer(
        servers | {"linger.ms": 10, "compression.type": "lz4", "queue.buffering.max.messages": 500_000}
    )
    states: dict[int, Entry] = {}

    def enrich(messages: list[Any]) -> Iterable[Done]:
        made = rows(tower, merge_all(states, [message.value for message in messages]))
        producer.produce_batch(TARGET, [{"key": key, "value": value} for key, value in made])
        producer.poll(0)
        last = {message.partition: message.offset + 1 for message in messages}
        return list(last.items())

    flow = Dataflow("enrich")
    source: KafkaSource[Any] = KafkaSource(
        [arguments.bootstrap_servers], [SOURCE], tail=True, starting_offset=OFFSET_BEGINNING,
        batch_size=BATCH_EVENTS,
    )  # fmt: skip
    events = op.input("read", flow, source)
    done = op.flat_map_batch("enrich", events, enrich)
    op.output("commit", done, _Commits(arguments, producer))
    return flow


class _Commits(DynamicSink[Done]):  # type: ignore[misc]  # no types here
    def __init__(self, arguments: WorkerArguments, producer: Producer) -> None:
        self._arguments, self._producer = arguments, producer

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "_Commit":
        """The one partition of this worker."""
        return _Commit(self._arguments, self._producer)


class _Commit(StatelessSinkPartition[Done]):  # type: ignore[misc]
    def __init__(self, arguments: WorkerArguments, producer: Producer) -> None:
        self._producer = producer
        self._group = Consumer(
            {"bootstrap.servers": arguments.bootstrap_servers, "group.id": arguments.group}
        )

    def write_batch(self, items: list[Done]) -> None:
        """Wait for the rows of these batches, then commit them."""
        self._producer.flush()
        offsets = [TopicPartition(SOURCE, partition, offset) for partition, offset in dict(items).items()]
        self._group.commit(offsets=offsets, asynchronous=False)


def main() -> None:
    """Run the flow until SIGTERM."""
    arguments = parse_arguments(FORMS)
    cli_main(build_flow(arguments))


if __name__ == "__main__":
    main()
