"""Getting state onto the compacted topic: changed Pins, coalesced, then a checkpoint that says so.

A Pin that changes a hundred times between two flushes is written once. Until a flush is acknowledged
its events have to stay readable in the sources; whoever takes the partition over reads them again.
A checkpoint is produced only after the broker has acknowledged every row that it speaks of.

Its `live` names the towers that every event from `covers` on is embedded with: those that were live when
`covers` was taken, and have been ever since. While events of an earlier owner are still folded without
rows, only the towers that this owner named himself are among them: he has embedded those events.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from features.store import RecordStore
from schemas.codec import encode
from schemas.states import StateCheckpointed
from schemas.topics import PIN_FEATURES, STATE_CHECKPOINTED

from .positions import Offsets, Partition, position_meta
from .sources import Ints
from .state_rows import StateRows, feature_rows


@dataclass(frozen=True)
class FlushSettings:
    """How often changed states are written, and how many at a time between two batches."""

    worker: str
    every_seconds: float
    chunk_pins: int


@dataclass(frozen=True)
class FlushEnvirons:
    """What a flush asks for: ends of the state topic, towers that have all Pins, clocks."""

    ends: Callable[[Sequence[int]], Mapping[int, int]]
    """Partitions -> end offsets of pin.features.v1 now."""
    embedded: Callable[[int], Sequence[str]]
    """Partition -> tower versions that have a row of each of its Pins."""
    clock: Callable[[], float]
    clock_ms: Callable[[], int]


@dataclass
class _Run:
    """One flush under way: what is still to be written, and what its checkpoint will say."""

    pin_ids: Ints
    covers: dict[Partition, int]
    live: dict[int, frozenset[str]]
    """Partition -> towers that its events from `covers` on are embedded with."""
    checkpoint_produced: bool = False


class StateFlush:
    """The flushes of one worker, one after the other. The caller produces and reports acknowledgement."""

    def __init__(self, store: RecordStore, settings: FlushSettings, environs: FlushEnvirons) -> None:
        self._store, self._settings, self._around = store, settings, environs
        self._dirty: list[Ints] = []
        self._covered: dict[Partition, int] = {}
        self._checkpoints: dict[int, StateCheckpointed] = {}
        self._live: dict[int, frozenset[str]] = {}
        self._followed: tuple[tuple[str, ...], bool] | None = None
        self._producing: list[StateCheckpointed] = []
        self._run: _Run | None = None
        self._due = environs.clock() + settings.every_seconds

    def begin(self, covered: Offsets, checkpoints: Mapping[int, StateCheckpointed], dirty: Ints) -> None:
        """Partitions were assigned: where reading starts, what was said of them, what is not written yet."""
        self.drop()
        self._covered, self._checkpoints = dict(covered), dict(checkpoints)
        self._dirty = [dirty] if len(dirty) else []
        self._live = {number: frozenset(one.live) for number, one in checkpoints.items()}

    def follow(self, versions: Sequence[str], *, all_emitted: bool) -> None:
        """The batch noted last was embedded with these towers, and so are the next ones until told otherwise.

        `all_emitted`: none of our partitions is still catching up silently with an earlier owner. A tower
        that can be named for the first time hastens the flush: a batch job waits for that.
        """
        if (told := (tuple(versions), all_emitted)) == self._followed:
            return
        self._followed, live = told, frozenset(versions)
        for number in {number for _, number in self._covered}:
            known = self._live.get(number, frozenset())
            self._live[number] = live if all_emitted else live & known
            if not self._live[number] <= known:
                self.hasten()
        self._only_live(live)

    def _only_live(self, live: frozenset[str]) -> None:
        self._live = {number: named & live for number, named in self._live.items()}
        if self._run is not None:
            self._run.live = {number: named & live for number, named in self._run.live.items()}

    def note(self, pin_ids: Ints, offsets: Offsets) -> None:
        """A batch is stored: these Pins changed, everything before these offsets is in their states."""
        self._dirty.append(pin_ids)
        self._covered |= offsets

    def hasten(self) -> None:
        """There is something worth telling the next owner: flush at the next moment."""
        self._due = self._around.clock()

    def drop(self) -> None:
        """The partitions are somebody else's, who reads again what was not flushed."""
        self._dirty, self._covered, self._checkpoints = [], {}, {}
        self._live, self._followed = {}, None
        self._producing, self._run = [], None

    def next_rows(self, *, at_once: bool = False) -> StateRows | None:
        """Rows to produce now, or None. Call `acknowledged` when everything produced so far is."""
        if self._run is None and (at_once or self._around.clock() >= self._due):
            self._start()
        if self._run is None or self._run.checkpoint_produced:
            return None
        chunk, self._run.pin_ids = np.split(self._run.pin_ids, [self._settings.chunk_pins])
        if not len(chunk):
            return None
        records, _, tails = self._store.get_many(chunk)
        return feature_rows(records, tails)

    def next_checkpoints(self) -> StateRows | None:
        """Checkpoints to produce: call it when all rows of `next_rows` are acknowledged."""
        run = self._run
        if run is None or len(run.pin_ids) or run.checkpoint_produced:
            return None
        run.checkpoint_produced = True
        by_partition: dict[int, dict[str, int]] = {}
        for (topic, number), offset in run.covers.items():
            by_partition.setdefault(number, {})[topic] = offset
        ends = self._around.ends(sorted(by_partition))
        self._producing = [
            one
            for number, covers in sorted(by_partition.items())
            if (one := self._checkpoint(run, number, covers, ends[number])) is not None
        ]
        return _checkpoint_rows(self._producing)

    def acknowledged(self) -> dict[str, bytes]:
        """All that was produced is acknowledged. Gives metadata to store: our own rows need no reading."""
        if self._run is None or not self._run.checkpoint_produced:
            return {}
        done, self._producing, self._run = self._producing, [], None
        self._checkpoints |= {one.partition: one for one in done}
        return position_meta({(PIN_FEATURES.name, one.partition): one.state_offset for one in done})

    def names_others(self, versions: Collection[str]) -> bool:
        """Whether a checkpoint calls a tower complete or live that is not among these."""
        live = set(versions)
        return any(
            not live.issuperset(one.embedded) or not live.issuperset(one.live)
            for one in self._checkpoints.values()
        )

    def retract(self, versions: Sequence[str]) -> StateRows | None:
        """Checkpoints that no longer name a tower which is not live: to be out before the next batch."""
        self._only_live(frozenset(versions))
        again = [
            one.model_copy(update=kept | {"occurred_at_ms": self._around.clock_ms()})
            for one in self._checkpoints.values()
            if (kept := _only(versions, one)) != {"embedded": one.embedded, "live": one.live}
        ]
        self._checkpoints |= {one.partition: one for one in again}
        return _checkpoint_rows(again)

    def calls_complete(self, lacking: Mapping[str, Collection[int]]) -> bool:
        """Whether a checkpoint, also one on its way, calls such a tower complete in such a partition."""
        said = (*self._checkpoints.values(), *self._producing)
        return any(one.partition in lacking.get(version, ()) for one in said for version in one.embedded)

    def lacks(self, lacking: Mapping[str, Collection[int]]) -> StateRows | None:
        """Checkpoints that no longer do so: to be out before a batch in which a tower lacks rows."""
        again = [
            one.model_copy(update={"embedded": kept, "occurred_at_ms": self._around.clock_ms()})
            for one in self._checkpoints.values()
            if (kept := [each for each in one.embedded if one.partition not in lacking.get(each, ())])
            != one.embedded
        ]
        self._checkpoints |= {one.partition: one for one in again}
        return _checkpoint_rows(again)

    def _start(self) -> None:
        self._due = self._around.clock() + self._settings.every_seconds
        dirty, self._dirty = self._dirty, []
        pins = np.unique(np.concatenate(dirty)) if dirty else np.empty(0, np.int64)
        self._run = _Run(pins, dict(self._covered), dict(self._live))

    def _checkpoint(
        self, run: _Run, number: int, covers: dict[str, int], end: int
    ) -> StateCheckpointed | None:
        """What is now true of this partition, or None when that was said already."""
        embedded, live = sorted(self._around.embedded(number)), sorted(run.live.get(number, ()))
        known = self._checkpoints.get(number)
        if known is not None and (known.covers, known.embedded, known.live) == (covers, embedded, live):
            return None
        return StateCheckpointed(
            state_topic=PIN_FEATURES.name,
            partition=number,
            state_offset=end,
            covers=covers,
            embedded=embedded,
            live=live,
            worker=self._settings.worker,
            occurred_at_ms=self._around.clock_ms(),
        )


def _only(versions: Sequence[str], one: StateCheckpointed) -> dict[str, list[str]]:
    """What a checkpoint says of these towers alone."""
    return {
        name: [version for version in getattr(one, name) if version in versions]
        for name in ("embedded", "live")
    }


def _checkpoint_rows(checkpoints: Sequence[StateCheckpointed]) -> StateRows | None:
    if not checkpoints:
        return None
    return StateRows(
        STATE_CHECKPOINTED.name,
        keys=[f"{one.state_topic}:{one.partition}" for one in checkpoints],
        values=[encode(one).decode() for one in checkpoints],
        partitions=[one.partition for one in checkpoints],
    )
