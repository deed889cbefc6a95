"""A leaf's delta segment: the feed that a whole server reads, less what is another shard's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from features.shard_slices import Shard
from index.delta_fold import FreshRows
from index.embedding_table import EmbeddedBatch
from schemas.manifests import Offsets

from .delta_follower import DeltaFollower
from .delta_offsets import Spans
from .delta_reader import FreshFeed
from .leaf_search import LoadedShard


class ShardFeed:
    """Only the rows of one shard.

    Every leaf reads the topics whole, because a Pin's partition says nothing of its shard.
    """

    def __init__(self, feed: FreshFeed, shard: Shard) -> None:
        self._feed, self._shard = feed, shard

    def spans(self, topics: Sequence[str]) -> Spans:
        """See `FreshFeed`."""
        return self._feed.spans(topics)

    def read_from(self, positions: Offsets) -> None:
        """See `FreshFeed`."""
        self._feed.read_from(positions)

    def read(self, timeout_seconds: float, dimensions: Mapping[str, int]) -> FreshRows:
        """See `FreshFeed`."""
        rows = self._feed.read(timeout_seconds, dimensions)
        return replace(rows, batches=[self._own(batch) for batch in rows.batches])

    def close(self) -> None:
        """See `FreshFeed`."""
        self._feed.close()

    def _own(self, batch: EmbeddedBatch) -> EmbeddedBatch:
        own = np.flatnonzero(self._shard.holds(batch.attributes["pin_id"]))
        return EmbeddedBatch(
            batch.attributes[own],
            [batch.vectors[row] for row in own.tolist()],
            [batch.titles[row] for row in own.tolist()],
            batch.versions,
            batch.version_code[own],
        )


def caught_up(load: Callable[[str], LoadedShard], follower: DeltaFollower) -> Callable[[str], LoadedShard]:
    """`load`, and then the shard's delta segment, as far as it comes within the time that it has."""

    def load_both(release_id: str) -> LoadedShard:
        release = load(release_id)
        follower.prepare(release)
        return release

    return load_both
