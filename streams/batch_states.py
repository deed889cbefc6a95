"""Pin states as the batch embedder reads them: one partition of pin.features.v1, the newest of each Pin."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from features.pin_state import PIN_RECORD, Records
from features.store import MemoryStore
from features.tier_slices import in_tier
from schemas.errors import Refused
from schemas.states import StateCheckpointed
from schemas.tiers import Tier
from schemas.topics import PIN_FEATURES, STATE_CHECKPOINTED

from .state_rows import ReadStates, StateRowDecoder, merge_states
from .state_topic import read_checkpoint
from .topic_reader import Record, Span, TopicReader

_TAIL = 256
"""Checkpoints read from the end of a partition; they are few, and the newest one counts."""
_MERGED_AT_ONCE = 4096


class StateSource(Protocol):
    """Where states and checkpoints come from; `KafkaStates` is one."""

    def spans(self) -> Mapping[int, Span]:
        """First offset and end of each partition of pin.features.v1, now."""
        ...

    def rows(self, partition: int, span: Span) -> Iterator[list[Record]]:
        """Its messages of these offsets, in order."""
        ...

    def checkpoints(self) -> Mapping[int, StateCheckpointed]:
        """The newest checkpoint of each partition that has any."""
        ...


class KafkaStates:
    """States on Kafka, read outside of every consumer group."""

    def __init__(self, reader: TopicReader) -> None:
        self._reader = reader

    def spans(self) -> Mapping[int, Span]:
        """See `StateSource`."""
        return self._reader.spans(PIN_FEATURES.name)

    def rows(self, partition: int, span: Span) -> Iterator[list[Record]]:
        """See `StateSource`."""
        return self._reader.read(PIN_FEATURES.name, {partition: span})

    def checkpoints(self) -> Mapping[int, StateCheckpointed]:
        """See `StateSource`."""
        spans = self._reader.spans(STATE_CHECKPOINTED.name)
        tails = {number: (max(first, end - _TAIL), end) for number, (first, end) in spans.items()}
        newest: dict[int, StateCheckpointed] = {}
        for batch in self._reader.read(STATE_CHECKPOINTED.name, tails):
            for record in batch:
                one = read_checkpoint(record.value, f"{record.topic}[{record.partition}]@{record.offset}")
                if one is None:
                    continue
                known = newest.get(one.partition)
                if known is None or one.state_offset >= known.state_offset:
                    newest[one.partition] = one
        return newest


@dataclass
class PartitionStates:
    """The newest state of each of a tier's Pins, ascending by id, and what was read for it."""

    partition: int
    first_offset: int
    end_offset: int
    records: Records
    tails: list[bytes]
    state_rows: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)


class Interrupted(Exception):
    """Told to stop in the middle; what was not finished is done anew by the next run."""


class PartitionReader:
    """Reads partitions of one tier."""

    def __init__(self, source: StateSource, tier: Tier, stopped: Callable[[], bool]) -> None:
        self._source, self._tier, self._stopped = source, tier, stopped
        self._decoder = StateRowDecoder()

    def read(self, partition: int, least_end: int, on_read: Callable[[int], None]) -> PartitionStates:
        """Read a partition up to its end, which has to be `least_end` or later. `on_read` gets row counts.

        NOTE: compaction takes a Pin's row away once a newer one is behind it. What it took while the
        partition was read has its newer row after the end that reading began with: a second look, up to
        the end as of then, finds it.
        Raises Refused (`states_gone`) for a topic that ends before `least_end`, Interrupted when stopped.
        """
        store = MemoryStore(PIN_RECORD)
        first, end = self._span(partition, least_end)
        found = PartitionStates(partition, first, end, np.zeros(0, PIN_RECORD), [])
        self._merge(store, found, (first, end), on_read)
        _, later = self._span(partition, end)
        self._merge(store, found, (end, later), on_read)
        found.end_offset = later
        chunks = list(store.scan())
        if chunks:
            found.records = np.concatenate([records for records, _ in chunks])
            found.tails = [tail for _, tails in chunks for tail in tails]
        return found

    def _span(self, partition: int, least_end: int) -> Span:
        first, end = self._source.spans()[partition]
        if end < least_end:
            raise Refused(
                "states_gone",
                expected=f"{PIN_FEATURES.name}[{partition}] to reach offset {least_end}, as it did before",
                came=f"a topic that ends at {end}: it was made anew, or is another cluster's",
                fix="Move the run's directory away from `embeddings`, then embed again.",
            )
        return first, end

    def _merge(
        self, store: MemoryStore, found: PartitionStates, span: Span, on_read: Callable[[int], None]
    ) -> None:
        waiting: list[Record] = []
        for batch in self._source.rows(found.partition, span):
            waiting += batch
            on_read(len(batch))
            if self._stopped():
                raise Interrupted
            if len(waiting) >= _MERGED_AT_ONCE:
                self._put(store, found, waiting)
                waiting = []
        if waiting:
            self._put(store, found, waiting)

    def _put(self, store: MemoryStore, found: PartitionStates, rows: list[Record]) -> None:
        read = self._decoder.decode(
            [row.value for row in rows], np.full(len(rows), found.partition, np.int64)
        )
        found.state_rows += len(rows)
        found.unreadable |= {rows[place].offset: str(error) for place, error in read.unreadable.items()}
        ours = np.flatnonzero(in_tier(read.records["pin_id"], self._tier))
        if len(ours):
            kept = ReadStates(read.records[ours], [read.tails[place] for place in ours.tolist()], {})
            merged = merge_states(store, kept)
            store.put_many(merged.pin_ids, merged.records, merged.tails)
