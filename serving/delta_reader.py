"""Keeps the delta segment of the served release new: reads the topics on, folds, and lays the result over.

What is needed of the topics comes through a small protocol, so nothing here knows Kafka. Used by one thread
(`delta_follower`).
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from index.delta import DeltaCounts, DeltaSegment, build_segment
from index.delta_fold import Base, DeltaFold, FreshRows
from schemas.manifests import Offsets, ReleaseManifest

from .clock import Clock
from .delta_news import ShownRows
from .delta_offsets import Spans, behind, completed, covers, earliest, missing, topics_of
from .fresh_inventory import Shelf

log = logging.getLogger(__name__)


class FreshFeed(Protocol):
    """The topics, as they are read here. Every method may raise RetryableError."""

    def spans(self, topics: Sequence[str]) -> Spans:
        """First offset and end of every partition of these topics, as of now."""
        ...

    def read_from(self, positions: Offsets) -> None:
        """Read on from these offsets, whatever was read before."""
        ...

    def read(self, timeout_seconds: float, dimensions: Mapping[str, int]) -> FreshRows:
        """What has come; nothing when none came in time. `dimensions` of the versions that are wanted."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class Followed(Protocol):
    """What is followed of a release, whole or one shard of it."""

    @property
    def manifest(self) -> ReleaseManifest:
        """Its manifest: the offsets that its snapshots cover, and its tower version."""
        ...

    @property
    def shelf(self) -> Shelf:
        """Where its view is."""
        ...


class Became(Protocol):
    """Who wants to know which Pins became servable."""

    def __call__(self, pin_ids: npt.NDArray[np.int64], seconds: npt.NDArray[np.float64]) -> None:
        """These Pins, so many seconds after their events were ingested."""
        ...


@dataclass(frozen=True)
class DeltaPolicy:
    """How new, how patient, how large."""

    refresh_seconds: float = 0.5
    catch_up_seconds: float = 10.0
    check_seconds: float = 2.0
    max_vectors: int = 100_000
    rest: float = 5.0
    """Least pause between two refreshes, in durations of the last one."""


@dataclass
class DeltaState:
    """What is known of the delta segment, for status and metrics."""

    release_id: str | None = None
    counts: DeltaCounts = field(default_factory=DeltaCounts)
    newest_ingest_ms: int = 0
    caught_up_at_ms: int = 0
    lag_events: int = 0
    unreadable: int = 0
    gap_events: int = 0
    """Messages that the release's delta segment needs and that its topics do not hold any more."""
    rewinds: int = 0
    refreshes: int = 0
    refresh_seconds: float = 0.0


@dataclass(eq=False)
class Arrival:
    """One release that is followed. It holds nothing of the release but what its `close` empties."""

    manifest: ReleaseManifest
    shelf: Shelf
    number: int
    """Which one it is of those that arrived: a higher one is newer."""
    arrived_at_ms: int
    wanted: Offsets = field(default_factory=dict)
    caught_up: threading.Event = field(default_factory=threading.Event)
    shown: int = -1
    """The fold's `changes` that its view was built from."""

    @property
    def base(self) -> Base | None:
        """Its rows, while the release has them."""
        return self.shelf.base()

    @property
    def version(self) -> str:
        """The tower version of its rows."""
        return self.manifest.tower_version

    @property
    def dimension(self) -> int:
        """Length of its vectors."""
        return self.manifest.index.dimension


class DeltaReader:
    """Follows the newest release that arrived, and keeps what those before it need that may be asked for."""

    def __init__(self, feed: FreshFeed, policy: DeltaPolicy, clock: Clock, became: Became) -> None:
        self._feed = feed
        self._policy = policy
        self._clock = clock
        self._became = became
        self._fold = DeltaFold(policy.max_vectors)
        self._followed: list[Arrival] = []
        """Newest first: that, the one before it, and older ones that are still open."""
        self._starts: dict[str, Offsets] = {}
        """Tower version -> from where on the fold has all that its releases need."""
        self._shown = ShownRows()
        self._positions: Offsets = {}
        self._spans: Spans = {}
        self._asked_at_ms = clock.now_ms()
        self._folded_at_ms = clock.now_ms()
        """As of when the fold last had everything; what is shown follows at the next refresh."""
        self._checked_at = self._refreshed_at = float("-inf")
        self.state = DeltaState(caught_up_at_ms=clock.now_ms())

    def adopt(self, arrival: Arrival) -> None:
        """Follow another release from its own offsets on; it may be older than what is followed.

        Raises RetryableError, and then does not follow it: to be called again.
        """
        self._look(topics_of(arrival.manifest.offsets))
        arrival.wanted = completed(arrival.manifest.offsets, self._spans)
        newest_first = sorted([arrival, *self._followed], key=lambda one: -one.number)
        # A leaf holds three, and a rollback makes an older one current again: what is open stays new.
        self._followed = newest_first[:2] + _open(newest_first[2:])
        try:
            self._begin(arrival)
        except Exception:
            self._followed = [one for one in self._followed if one is not arrival]
            raise
        # It lacks everything since it came, however new the others are.
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
        """Keep what the followed releases need, and go back to where this one begins if it must be."""
        self._keep_for_followed()
        version, wanted = arrival.version, arrival.wanted
        start = self._starts.get(version)
        if start is None or not covers(start, wanted):
            # What others have read already comes again, and changes nothing for them.
            rewound = any(
                offset < self._positions.get(topic, {}).get(part, offset)
                for topic, offsets in wanted.items()
                for part, offset in offsets.items()
            )
            self._positions = earliest(self._positions, wanted)
            self._feed.read_from(self._positions)
            self.state.rewinds += rewound
        self._starts[version] = wanted if start is None else earliest(start, wanted)

    def _make_room(self) -> None:
        """Where embeddings found no room: give up what a rollback would need, and read them again."""
        newest, *older = self._followed
        if self._fold.refused.get(newest.version) and any(one.shelf.closed for one in older):
            self._followed = [newest, *_open(older)]
            self._begin(newest)

    def _keep_for_followed(self) -> None:
        """Keep the versions and rows that the followed releases need, and what is known to be whole."""
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
        """Read, fold, look for the ends, refresh: each when it is due. Raises RetryableError."""
        if not self._followed:
            return
        self._make_room()
        try:
            read = self._feed.read(timeout_seconds, self._fold.dimensions)
            for batch in read.batches:
                self._fold.apply(batch)
        except Exception:
            # The feed is past what was not folded: it has to come again, or it would be lost without a word.
            self._feed.read_from(self._positions)
            raise
        for topic, offsets in read.upto.items():
            mine = self._positions.setdefault(topic, {})
            mine.update(offsets)
        self.state.unreadable += read.unreadable
        if self._clock.seconds() - self._checked_at >= self._policy.check_seconds:
            self._look(tuple(self._spans))
        self._catch_up()
        # A large segment takes long to lay over: its refreshes leave the cores to requests most of the time.
        wait = max(self._policy.refresh_seconds, self._policy.rest * self.state.refresh_seconds)
        if self._clock.seconds() - self._refreshed_at >= wait:
            self.refresh()
        if all(one.shelf.closed or one.shown == self._fold.changes for one in self._followed):
            self.state.caught_up_at_ms = self._folded_at_ms

    def _look(self, topics: Sequence[str]) -> None:
        """Ask where the topics end."""
        self._checked_at = self._clock.seconds()
        asked_at_ms = self._clock.now_ms()
        self._spans = self._feed.spans(sorted({*topics, *self._spans}))
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
        self.state.lag_events = behind(self._positions, self._spans)
        if self.state.lag_events == 0:
            self._folded_at_ms = self._asked_at_ms
            late = [one for one in self._followed if not one.caught_up.is_set()]
            if late:
                self.refresh()
            for one in late:
                one.caught_up.set()

    def refresh(self) -> None:
        """Lay what is new over the release that is served, and over the one that is about to be."""
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
        state = self.state
        state.counts = segment.counts
        newest_ms = segment.newest_ingest_ms, one.manifest.newest_ingest_ms
        state.newest_ingest_ms = max(state.newest_ingest_ms, *newest_ms)
        # While a release catches up, what its segment lacks yet may be what the one before showed already.
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
    """Whether a partition is shorter than what was read of it."""
    return positions.get(partition, 0) > end
