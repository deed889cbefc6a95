"""Topics in memory for a delta segment, and a broker that can go away."""

from collections.abc import Mapping, Sequence

import numpy as np

from index.delta_fold import NO_VERSION, FreshRows
from index.embedding_table import EmbeddedBatch
from schemas.errors import RetryableError
from schemas.manifests import Offsets
from schemas.topics import PIN_EMBEDDED, PIN_FEATURES
from serving.delta_offsets import Spans

from .fakes import Records, vectors


class FakeFeed:
    """Two partitions of pin.embedded.v1 and one of pin.features.v1; a Pin is on partition `pin % 2`."""

    def __init__(self) -> None:
        self.log: dict[str, dict[int, list[EmbeddedBatch]]] = {
            PIN_EMBEDDED.name: {0: [], 1: []},
            PIN_FEATURES.name: {0: []},
        }
        self.first: dict[str, dict[int, int]] = {PIN_EMBEDDED.name: {0: 0, 1: 0}, PIN_FEATURES.name: {0: 0}}
        self.down = False
        self.silent: set[str] = set()
        """Topics whose ends nobody tells."""
        self.assigned: list[Offsets] = []
        self.read_count = 1_000
        self.closed = False
        self._at: Offsets = {}

    def put(self, rows: Records, dot: float, tower: str) -> None:
        """One message: a Pin's newer row whose dot product with the fake query is `dot`."""
        topic = PIN_FEATURES.name if tower == NO_VERSION else PIN_EMBEDDED.name
        partition = 0 if tower == NO_VERSION else int(rows["pin_id"][0]) % 2
        vector = b"" if tower == NO_VERSION else vectors([dot]).tobytes()
        titles = [f"Newer title of {pin}" for pin in rows["pin_id"].tolist()]
        one = EmbeddedBatch(rows.copy(), [vector], titles, [tower], np.zeros(1, np.uint8))
        self.log[topic][partition].append(one)

    def ends(self) -> Offsets:
        """The ends of pin.embedded.v1, as a snapshot's manifest has them."""
        return {PIN_EMBEDDED.name: {part: len(log) for part, log in self.log[PIN_EMBEDDED.name].items()}}

    def spans(self, topics: Sequence[str]) -> Spans:
        if self.down:
            raise RetryableError("nobody answers")
        if self.silent.intersection(topics):
            raise RetryableError("that topic does not answer")
        return {
            topic: {part: (self.first[topic][part], len(log)) for part, log in self.log[topic].items()}
            for topic in topics
        }

    def read_from(self, positions: Offsets) -> None:
        self.assigned.append({topic: dict(offsets) for topic, offsets in positions.items()})
        self._at = {topic: dict(offsets) for topic, offsets in positions.items()}

    def read(self, timeout_seconds: float, dimensions: Mapping[str, int]) -> FreshRows:
        if self.down:
            return FreshRows([], {})
        batches: list[EmbeddedBatch] = []
        for topic, offsets in self._at.items():
            for part, at in offsets.items():
                start = max(at, self.first[topic][part])
                came = self.log[topic][part][start : start + self.read_count]
                batches += came
                offsets[part] = start + len(came)
        return FreshRows(batches, {topic: dict(offsets) for topic, offsets in self._at.items()})

    def close(self) -> None:
        self.closed = True
