"""Keeps delta segments new: reads the topics, folds the rows Pin by Pin, builds each release's segment.

One `DeltaReader` serves every release that a process has open. The thread of `delta_follower` calls it, and
no other. Kafka is behind the protocol `FreshFeed`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from index.delta import DeltaCounts, DeltaSegment, build_segment
from index.delta_fold import DeltaFold, FreshRows
from schemas.manifests import Offsets

from .clock import Clock
from .delta_arrival import Arrival
from .delta_news import ShownRows
from .delta_offsets import Spans, behind, completed, covers, earliest, missing, topics_of

log = logging.getLogger(__name__)


class FreshFeed(Protocol):
    """The topics that delta segments come from. Every method may raise RetryableError."""

    def spans(self, topics: Sequence[str]) -> Spans:
        """Of every partition of these topics: the first offset that is still there, and the end."""
        ...

    def read_from(self, positions: Offsets) -> None:
        """Read these partitions from these offsets on, and no others, whatever was read before."""
        ...

    def read(self, timeout_seconds: float, dimensions: Mapping[str, int]) -> FreshRows:
        """The rows that come within `timeout_seconds`; maybe none.

        `dimensions`: tower version -> length of its vectors, for the versions whose embeddings are wanted.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class Became(Protocol):
    """Called with the Pins that a new segment made servable."""

    def __call__(self, pin_ids: npt.NDArray[np.int64], seconds: npt.NDArray[np.float64]) -> None:
        """`seconds[i]` after the newest event of `pin_ids[i]` was ingested, the Pin can be scored with it."""
        ...


@dataclass(frozen=True)
class DeltaPolicy:
    """How new segments are kept, and how large they may grow."""

    refresh_seconds: float = 0.5
    """Least pause between two refreshes."""
    catch_up_seconds: float = 10.0
    """How long a loaded release may wait for its segment before it is served without."""
    check_seconds: float = 2.0
    """Between two questions where the topics end."""
    max_vectors: int = 100_000
    """Embeddings kept per tower version."""
    rest: float = 5.0
    """Least pause between two refreshes, as a multiple of how long the last one took."""


@dataclass
class DeltaState:
    """What status and metrics say of the delta segment of the newest release that is followed."""

    release_id: str | None = None
    counts: DeltaCounts = field(default_factory=DeltaCounts)
    newest_ingest_ms: int = 0
    caught_up_at_ms: int = 0
    """Segments show everything that the topics held at this time."""
    lag_events: int = 0
    """Messages that the topics hold and that were not read yet."""
    unreadable: int = 0
    """Messages that were no rows."""
    gap_events: int = 0
    """Messages that the release's delta segment needs and that its topics do not hold any more."""
    rewinds: int = 0
    """How often a release needed messages from before what was being read."""
    refreshes: int = 0
    refresh_seconds: float = 0.0
    """How long the last refresh took."""


class DeltaReader:
    """One fold of the topics, and from it a segment for each release that may still be asked for."""

    def __init__(self, feed: FreshFeed, policy: DeltaPolicy, clock: Clock, became: Became) -> None:
        self._feed = feed
        self._policy = policy
        self._clock = clock
        self._became = became
        self._fold = DeltaFold(policy.max_vectors)
        self._followed: list[Arrival] = []
        """Newest first: the newest release, the one before it (for a rollback), and older open ones."""
        self._starts: dict[str, Offsets] = {}
        """Tower version -> offsets from which on the fold has every row, with that version's embeddings."""
        self._shown = ShownRows()
        self._positions: Offsets = {}
        """The next offset to read of every partition that is read."""
        self._spans: Spans = {}
        """First offsets and ends of the topics, as of `_asked_at_ms`."""
        self._asked_at_ms = clock.now_ms()
        self._folded_at_ms = clock.now_ms()
        """The fold has everything that the topics held at this time; the next refresh shows it."""
        self._checked_at = self._refreshed_at = float("-inf")
        self.state = DeltaState(caught_up_at_ms=clock.now_ms())

    def adopt(self, arrival: Arrival) -> None:
        """Begin to follow a release, from the offsets that its snapshots cover.

        Raises RetryableError when the topics cannot be asked; the release is then not followed, and the
        caller tries again. A release that waited so may be older than those that are followed already.
        """
        topics = topics_of(arrival.manifest.offsets)
        self._look(*topics)
        spans = {topic: span for topic, span in self._spans.items() if topic in topics}
        arrival.wanted = completed(arrival.manifest.offsets, spans)
        newest_first = sorted([arrival, *self._followed], key=lambda one: -one.number)
        # All that are open: a leaf holds three, and a rollback makes an older one current again.
        self._followed = newest_first[:2] + _open(newest_first[2:])
        try:
            self._begin(arrival)
        except Exception:
            self._followed = [one for one in self._followed if one is not arrival]
            raise
        # The lag counts from when this release came, even where the others have been caught up since.
        self._folded_at_ms = min(self._folded_at_ms, arrival.arrived_at_ms)
        self.state.caught_up_at_ms = min(self.state.caught_up_at_ms, arrival.arrived_at_ms)
        gap_events = missing(arrival.wanted, self._spans)
        if gap_events:
            log.warning(
                "delta of %s: its topics have lost %d messages that it needs; changes in them act with the"
                " next release",
                arrival.manifest.release_id,
                gap_events,
            )
        if arrival is self._followed[0]:
            self.state.release_id, self.state.gap_events = arrival.manifest.release_id, gap_events

    def _begin(self, arrival: Arrival) -> None:
        """Read what the followed releases need and nothing else; go back where `arrival` needs older rows."""
        self._keep_for_followed()
        topics, version, wanted = self._topics(), arrival.version, arrival.wanted
        self._spans = {topic: span for topic, span in self._spans.items() if topic in topics}
        positions = {topic: offsets for topic, offsets in self._positions.items() if topic in topics}
        start = self._starts.get(version)
        lacks_rows, rewound = start is None or not covers(start, wanted), False
        if lacks_rows:
            # Rows that are folded already come again: folding a row twice changes nothing.
            rewound = any(
                offset < positions.get(topic, {}).get(part, offset)
                for topic, offsets in wanted.items()
                for part, offset in offsets.items()
            )
            positions = earliest(positions, wanted)
        if lacks_rows or positions.keys() != self._positions.keys():
            self._feed.read_from(positions)
            self._positions = positions
        self.state.rewinds += rewound
        self._starts[version] = wanted if start is None else earliest(start, wanted)

    def _topics(self) -> set[str]:
        """The topics that the followed releases need."""
        return {topic for one in self._followed for topic in one.wanted}

    def _make_room(self) -> None:
        """Make room for embeddings of the newest release that were refused, and read those again.

        What closed releases need is given up: it was kept for a rollback only.
        """
        newest, *older = self._followed
        if self._fold.refused.get(newest.version) and any(one.shelf.closed for one in older):
            self._followed = [newest, *_open(older)]
            self._begin(newest)

    def _keep_for_followed(self) -> None:
        """Drop what no followed release needs, from the fold and from `_starts`.

        A version whose embeddings did not all find room is not complete, so it loses its start as well.
        """
        overflowed = {version for version, count in self._fold.refused.items() if count}
        known = set(self._fold.versions) - overflowed
        self._fold.keep({one.version: one.dimension for one in self._followed})
        bases = [base for one in self._followed if (base := one.base) is not None]
        if len(bases) == len(self._followed):
            self._fold.forget(bases)
        starts: dict[str, Offsets] = {}
        for one in self._followed:
            start = self._starts.get(one.version)
            if start is not None and one.version in known and covers(start, one.wanted):
                starts[one.version] = earliest(starts.get(one.version, one.wanted), one.wanted)
        self._starts = starts

    @property
    def busy(self) -> bool:
        """Whether there is anything to read for."""
        return bool(self._followed)

    def turn(self, timeout_seconds: float) -> None:
        """Read and fold what has come; ask for the ends and refresh the segments when that is due.

        Raises RetryableError when the topics cannot be read or asked.
        """
        if not self._followed:
            return
        self._make_room()
        try:
            read = self._feed.read(timeout_seconds, self._fold.dimensions)
            for batch in read.batches:
                self._fold.apply(batch)
        except Exception:
            # The feed has gone past rows that were not folded: unless it is set back, they are lost.
            self._feed.read_from(self._positions)
            raise
        for topic, offsets in read.upto.items():
            mine = self._positions.setdefault(topic, {})
            mine.update(offsets)
        self.state.unreadable += read.unreadable
        if self._clock.seconds() - self._checked_at >= self._policy.check_seconds:
            self._look()
        self._catch_up()
        # Building a large segment takes long: between two builds the cores are left to requests.
        wait = max(self._policy.refresh_seconds, self._policy.rest * self.state.refresh_seconds)
        if self._clock.seconds() - self._refreshed_at >= wait:
            self.refresh()
        if all(one.shelf.closed or one.shown == self._fold.changes for one in self._followed):
            self.state.caught_up_at_ms = self._folded_at_ms

    def _look(self, *more: str) -> None:
        """Ask where the topics of the followed releases begin and end, and these topics beside them."""
        self._checked_at = self._clock.seconds()
        asked_at_ms = self._clock.now_ms()
        self._spans = self._feed.spans(sorted({*more, *self._topics()}))
        self._asked_at_ms = asked_at_ms
        reset = {
            topic: {part: first for part, (first, end) in parts.items() if part_ends_before(mine, part, end)}
            for topic, parts in self._spans.items()
            if (mine := self._positions.get(topic)) is not None
        }
        if any(reset.values()):
            log.warning(
                "a topic ends before what was read of it: it was made anew, and is read from its start"
            )
            self._positions = {t: offsets | reset.get(t, {}) for t, offsets in self._positions.items()}
            self._feed.read_from(self._positions)

    def _catch_up(self) -> None:
        """Once everything is read: show it over the releases that have waited for it, and say so to them."""
        self.state.lag_events = behind(self._positions, self._spans)
        if self.state.lag_events == 0:
            self._folded_at_ms = self._asked_at_ms
            late = [one for one in self._followed if not one.caught_up.is_set()]
            if late:
                self.refresh()
            for one in late:
                one.caught_up.set()

    def refresh(self) -> None:
        """Build a new segment for every followed release that is open, if rows came since its last one."""
        self._refreshed_at = started = self._clock.seconds()
        for one in self._followed:
            base = one.base
            if base is not None and one.shown != self._fold.changes:
                segment = build_segment(self._fold, base, one.dimension)
                one.shelf.refresh(segment)
                one.shown = self._fold.changes
                if one is self._followed[0]:
                    self._note(one, segment)
                    self.state.refreshes += 1
                    self.state.refresh_seconds = self._clock.seconds() - started

    def _note(self, one: Arrival, segment: DeltaSegment) -> None:
        """Keep the figures of the newest release's segment, and tell which Pins it made servable."""
        state = self.state
        state.counts = segment.counts
        newest_ms = segment.newest_ingest_ms, one.manifest.newest_ingest_ms
        state.newest_ingest_ms = max(state.newest_ingest_ms, *newest_ms)
        # Not while the release catches up: rows that come now may have been shown over the release before.
        if state.lag_events == 0 or one.caught_up.is_set():
            rows = self._shown.news(one, segment.attributes)
            seconds = np.maximum(self._clock.now_ms() - rows["ingested_at_ms"], 0) / 1_000.0
            if len(rows):
                self._became(rows["pin_id"], seconds)

    def close(self) -> None:
        """Close the connections."""
        self._feed.close()


def _open(arrivals: Sequence[Arrival]) -> list[Arrival]:
    return [one for one in arrivals if not one.shelf.closed]


def part_ends_before(positions: Mapping[int, int], partition: int, end: int) -> bool:
    """Whether more was read of a partition than it holds now."""
    return positions.get(partition, 0) > end
