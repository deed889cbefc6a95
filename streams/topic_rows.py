"""What stands on a topic now: its rows, or the newest of each key, to look at or to collect."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from schemas.codec import decode
from schemas.errors import InvalidMessage
from schemas.topics import Topic

from .topic_reader import TopicReader


@dataclass
class RowsReading:
    """Messages looked at, of how many; those that were no row of the topic."""

    done: int = 0
    total: int = 0
    unreadable: int = 0


def newest_rows(
    reader: TopicReader,
    topic: Topic,
    notice: Callable[[RowsReading], None] = lambda _: None,
    reading: RowsReading | None = None,
) -> Iterator[list[BaseModel]]:
    """The newest row of each key, one list per partition, oldest row first; a key without value is gone.

    Holds one partition at a time: equal keys are on the same one. What is no row is counted and passed
    over. Raises RetryableError when Kafka is out of reach, Refused when there is no such topic.
    """
    reading = reading or RowsReading()
    spans = reader.spans(topic.name)
    reading.total += sum(end - start for start, end in spans.values())
    for number, span in sorted(spans.items()):
        rows: dict[bytes | None, BaseModel] = {}
        for batch in reader.read(topic.name, {number: span}):
            for record in batch:
                # Taken out first, so that the newest also stands last.
                rows.pop(record.key, None)
                if record.value is None:
                    continue
                try:
                    rows[record.key] = decode(topic.value, record.value)
                except InvalidMessage:
                    reading.unreadable += 1
            reading.done += len(batch)
            notice(reading)
        yield list(rows.values())


def every_row(
    reader: TopicReader,
    topic: Topic,
    notice: Callable[[RowsReading], None] = lambda _: None,
    reading: RowsReading | None = None,
) -> Iterator[BaseModel]:
    """Every row of a topic that deletes by age; what is no row is counted and passed over. See above."""
    reading = reading or RowsReading()
    spans = reader.spans(topic.name)
    reading.total += sum(end - start for start, end in spans.values())
    for batch in reader.read(topic.name, spans):
        for record in batch:
            try:
                yield decode(topic.value, record.value)
            except InvalidMessage:
                reading.unreadable += 1
        reading.done += len(batch)
        notice(reading)
