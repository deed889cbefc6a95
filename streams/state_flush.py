"""Flushing: writing changed Pin states to the compacted topic pin.features.v1, then a checkpoint.

A flush writes each Pin that has changed since the last flush, once, however often it changed. When the
broker has acknowledged the rows, a checkpoint of each partition is produced. It says: the state rows below
`state_offset` hold every event below the source offsets in `covers`. The next owner of the partition restores
those rows and reads the sources from `covers` on. So events from `covers` on have to stay in the sources.

A checkpoint also names towers. `embedded` are the towers with a row of every Pin. `live` are the towers that
every event from `covers` on is embedded with: they were live when `covers` was taken and have been since.
A new owner that folds the previous owner's events silently emits no rows of them. The previous owner has
embedded them, so until they are folded `live` names only towers that the previous owner named there.
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
    """How often changed states are written, and how many Pins at a time between two batches."""

    worker: str
    every_seconds: float
    chunk_pins: int


@dataclass(frozen=True)
class FlushSurroundings:
    """What a flush asks its surroundings."""

    ends: Callable[[Sequence[int]], Mapping[int, int]]
    """Partitions -> their end offsets on pin.features.v1 now."""
    embedded: Callable[[int], Sequence[str]]
    """Partition -> tower versions that have a row of each of its Pins."""
    clock: Callable[[], float]
    """Monotonic seconds."""
    clock_ms: Callable[[], int]
    """Milliseconds since 1970."""


@dataclass
class _Run:
    """One flush under way."""

    pin_ids: Ints
    """Pins that are still to be written."""
    covers: dict[Partition, int]
    """What the checkpoints will say: source partition -> every event below this offset is in the states."""
    live: dict[int, frozenset[str]]
    """Partition -> towers that its events from `covers` on are embedded with."""
    checkpoint_produced: bool = False


class StateFlush:
    """The flushes of one worker, one after the other.

    This class makes rows and checkpoints and writes nothing itself. The worker produces them, and calls
    `acknowledged` when the broker has them.
    """

    def __init__(self, store: RecordStore, settings: FlushSettings, environs: FlushSurroundings) -> None:
        self._store, self._settings, self._around = store, settings, environs
        self._dirty: list[Ints] = []
        """Pins that have changed since the last flush began."""
        self._covered: dict[Partition, int] = {}
        self._checkpoints: dict[int, StateCheckpointed] = {}
        """Partition -> its newest checkpoint: found at the start, acknowledged, or given as a correction."""
        self._live: dict[int, frozenset[str]] = {}
        self._followed: tuple[tuple[str, ...], bool] | None = None
        self._producing: list[StateCheckpointed] = []
        """Checkpoints that are produced and not acknowledged."""
        self._run: _Run | None = None
        self._due = environs.clock() + settings.every_seconds

    def begin(self, covered: Offsets, checkpoints: Mapping[int, StateCheckpointed], dirty: Ints) -> None:
        """Note which partitions were assigned.

        `covered`: where reading of each source partition starts. `checkpoints`: what the owners before have
        said, by partition. `dirty`: Pins whose states may be in no state row yet.
        """
        self.drop()
        self._covered, self._checkpoints = dict(covered), dict(checkpoints)
        self._dirty = [dirty] if len(dirty) else []
        self._live = {number: frozenset(one.live) for number, one in checkpoints.items()}

    def follow(self, versions: Sequence[str], *, all_emitted: bool) -> None:
        """Note that the last batch was embedded with these towers, as the next ones are until the next call.

        `all_emitted`: no silent events of a previous owner are left to fold. A tower that `live` can name for
        the first time hastens the flush: `skewless embed` waits for such a checkpoint.
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
        """Note that a batch is stored: these Pins changed, their states hold every event below `offsets`."""
        self._dirty.append(pin_ids)
        self._covered |= offsets

    def hasten(self) -> None:
        """Flush as soon as possible: the next owner should know what has just happened."""
        self._due = self._around.clock()

    def drop(self) -> None:
        """Forget everything: the partitions are another worker's, which reads again what was not flushed."""
        self._dirty, self._covered, self._checkpoints = [], {}, {}
        self._live, self._followed = {}, None
        self._producing, self._run = [], None

    def next_rows(self, *, at_once: bool = False) -> StateRows | None:
        """State rows to produce now, or None. `at_once` begins a flush though none is due."""
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
        """Checkpoints to produce, or None. To be called when all rows of `next_rows` are acknowledged."""
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
        """Note that everything produced so far is acknowledged; gives metadata to store.

        With it a restart does not read the state rows that this worker has written itself.
        """
        if self._run is None or not self._run.checkpoint_produced:
            return {}
        done, self._producing, self._run = self._producing, [], None
        self._checkpoints |= {one.partition: one for one in done}
        return position_meta({(PIN_FEATURES.name, one.partition): one.state_offset for one in done})

    def names_others(self, versions: Collection[str]) -> bool:
        """Whether a checkpoint names a tower, as complete or live, that is not among these versions."""
        live = set(versions)
        return any(
            not live.issuperset(one.embedded) or not live.issuperset(one.live)
            for one in self._checkpoints.values()
        )

    def retract(self, versions: Sequence[str]) -> StateRows | None:
        """Corrected checkpoints, which name none but these towers, or None where no checkpoint needs it.

        They have to be acknowledged before a batch is stored that is embedded with these towers alone.
        """
        self._only_live(frozenset(versions))
        again = [
            one.model_copy(update=kept | {"occurred_at_ms": self._around.clock_ms()})
            for one in self._checkpoints.values()
            if (kept := _only(versions, one)) != {"embedded": one.embedded, "live": one.live}
        ]
        self._checkpoints |= {one.partition: one for one in again}
        return _checkpoint_rows(again)

    def calls_complete(self, lacking: Mapping[str, Collection[int]]) -> bool:
        """Whether a checkpoint, also one on its way, calls a tower complete in a partition that it lacks.

        `lacking`: tower version -> partitions in which the tower lacks a row.
        """
        said = (*self._checkpoints.values(), *self._producing)
        return any(one.partition in lacking.get(version, ()) for one in said for version in one.embedded)

    def lacks(self, lacking: Mapping[str, Collection[int]]) -> StateRows | None:
        """Corrected checkpoints, which call no tower complete in such a partition; None where none does.

        They have to be acknowledged before the batch is stored in which the tower lacks rows.
        """
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
        """The checkpoint of this partition, or None when the one before says the same."""
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
    """Which of these towers a checkpoint names, under the names of its fields."""
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
