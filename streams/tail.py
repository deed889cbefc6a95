"""The messages of a topic that somebody wants to look at."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from schemas.errors import Refused

from .topic_reader import Record, Spans, TopicReader

Start = Literal["last", "beginning", "end"] | int

DEFAULT_LIMIT = 10


@dataclass(frozen=True)
class TailJob:
    """Which messages: of one topic, maybe one partition and one key, from where, how many.

    `last` means the newest `limit` (10 unless said); an offset is one of each partition that is read.
    With `follow` it goes on with what comes.
    """

    topic: str
    start: Start = "last"
    partition: int | None = None
    key: bytes | None = None
    limit: int | None = None
    follow: bool = False

    @property
    def newest(self) -> int:
        """How many of the messages that are there `last` takes."""
        return self.limit or DEFAULT_LIMIT

    def takes(self, record: Record) -> bool:
        """Whether the key is the one that is asked for."""
        return self.key is None or record.key == self.key


def tail(reader: TopicReader, job: TailJob, stopped: Callable[[], bool]) -> Iterator[Record]:
    """The messages, in the order of their times for `last`, as they are read otherwise.

    Raises Refused without that topic or partition, RetryableError when Kafka is out of reach.
    """
    there = _spans(reader, job)
    left = job.limit
    for record in _first(reader, job, there, stopped):
        yield record
        if left is not None and (left := left - 1) == 0 and not (job.follow and job.start == "last"):
            return
    if not job.follow and job.start != "end":
        return
    ends = {number: end for number, (_, end) in there.items()}
    for batch in reader.follow(job.topic, ends, stopped):
        for record in filter(job.takes, batch):
            yield record
            if left is not None and job.start != "last" and (left := left - 1) == 0:
                return


def _spans(reader: TopicReader, job: TailJob) -> Spans:
    spans = reader.spans(job.topic)
    if job.partition is None:
        return spans
    if job.partition not in spans:
        raise Refused(
            "unknown_partition",
            expected=f"a partition of {job.topic}: 0 to {len(spans) - 1}",
            came=str(job.partition),
            fix="Leave --partition out to read all of them.",
        )
    return {job.partition: spans[job.partition]}


def _first(reader: TopicReader, job: TailJob, there: Spans, stopped: Callable[[], bool]) -> Iterator[Record]:
    """Of the messages that are there now, the ones that are meant."""
    if job.start == "end":
        return
    if job.start == "last":
        yield from _newest(reader, job, there)
        return
    from_offset = 0 if job.start == "beginning" else int(job.start)
    spans = {number: (max(low, from_offset), end) for number, (low, end) in there.items()}
    for batch in reader.read(job.topic, spans):
        yield from filter(job.takes, batch)
        if stopped():
            return


def _newest(reader: TopicReader, job: TailJob, there: Spans) -> list[Record]:
    """The newest ones, oldest first. With a key everything has to be read, as the key's last may be old."""
    spans = there if job.key is not None else _ends_of(there, job.newest)
    kept: list[tuple[int, int, int, Record]] = []
    for batch in reader.read(job.topic, spans):
        for record in filter(job.takes, batch):
            # Places are different, so records are never compared.
            entry = (record.timestamp_ms, record.partition, record.offset, record)
            if len(kept) < job.newest:
                heapq.heappush(kept, entry)
            else:
                heapq.heappushpop(kept, entry)
    return [record for *_, record in sorted(kept, key=lambda one: one[:3])]


def _ends_of(there: Spans, count: int) -> Spans:
    return {number: (max(low, end - count), end) for number, (low, end) in there.items()}
