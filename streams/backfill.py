"""Backfill in the worker: a tower that becomes live gets a row of every stored Pin, chunk by chunk.

The worker asks for one chunk between two batches. The backfill of a tower is a pass over the stored Pins in
the order of their ids. A partition whose Pins all have an acknowledged row is complete: its checkpoint tells
the next owner. How far the pass got in the other partitions stands in the store, so a restart goes on there.
A Pin's state is read when it is embedded, so its row is never older than a row that is out already.

The pass leaves out a Pin that the tower cannot embed. A Pin that the serving tower leaves out is not tried
again before its next event. Where another tower leaves a Pin out, its partition lacks a row: nobody calls the
partition complete, and the first start after the end of the pass tries its Pins again.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from features.store import RecordStore
from schemas.states import StateCheckpointed

from .embedded_rows import EmbeddedRows, embedded_rows
from .embedded_tiers import EVERY_PIN, EmbeddedTiers
from .enrichment import LeftOut
from .tower_output import PinEmbedder, embed_as_placed

_LIVE = "live_towers"
"""Store metadata: the tower versions that the batch stored last was embedded with."""


@dataclass(frozen=True)
class Progress:
    """How far the backfill of one tower version is."""

    after: int = -1
    """The pass under way has embedded the Pins up to this id."""
    partitions: tuple[int, ...] = ()
    """What the pass under way goes over."""
    complete: tuple[int, ...] = ()
    """Partitions of which every Pin has a row."""
    pins: int = 0
    """Rows made so far."""
    done: bool = False
    """Whether the pass is at its end: every partition of this worker is `complete` or `lacking`."""
    lacking: tuple[int, ...] = ()
    """Partitions in which this tower, not the serving one, failed on a Pin. They are gone over again
    after the next start or rebalance, not before."""
    failed: int = 0
    """Pins that the pass could not embed."""

    def told(self) -> str:
        """How many Pins have a row, for the log."""
        return f"{f'all but {self.failed} Pins' if self.failed else 'every Pin'} ({self.pins})"


@dataclass(frozen=True)
class Chunk:
    """Rows of one chunk to produce, and the progress to store once they are acknowledged.

    `ordinal` is the tower's place in the live list.
    """

    ordinal: int
    version: str
    progress: Progress
    rows: EmbeddedRows
    left_out: LeftOut | None = None

    def meta(self) -> dict[str, bytes]:
        """The progress as of this chunk, as store metadata."""
        return _meta(self.version, self.progress)


class Backfill:
    """The backfills of one worker, one tower version after the other, in the order of the live list.

    With `by_worker` false the batch job (`skewless embed`) embeds the stored Pins. Then there are no chunks,
    and no partition becomes complete here. Partitions that an earlier owner has called complete stay complete
    while the tower is live.
    """

    def __init__(
        self, store: RecordStore, chunk_pins: int, tiers: EmbeddedTiers = EVERY_PIN, *, by_worker: bool = True
    ) -> None:
        self._store, self._tiers, self._by_worker = store, tiers, by_worker
        self._chunk_pins = chunk_pins
        self.progress: dict[str, Progress] = {}
        self._settled: dict[str, set[int]] = {}
        self._checkpoints: Mapping[int, StateCheckpointed] = {}
        live = store.get_meta(_LIVE)
        self._live: list[str] | None = None if live is None else json.loads(live)

    def begin(
        self, checkpoints: Mapping[int, StateCheckpointed], foreign: Collection[int] = frozenset()
    ) -> None:
        """Note which partitions were assigned; their checkpoints say which towers are complete there already.

        `foreign` are partitions that another worker has had since this store saw them last. Their Pins may
        have changed below the id that a pass of this store has reached, so that pass starts over there.
        """
        self._checkpoints = checkpoints
        self.progress, self._settled = {}, {}
        # A checkpoint stays true until it is taken back. Whoever has had no turn yet repeats what it says.
        for number, one in checkpoints.items():
            for version in one.embedded:
                self._settled.setdefault(version, set()).add(number)
        self._start_over(set(foreign))

    def _start_over(self, foreign: set[int]) -> None:
        meta: dict[str, bytes] = {}
        for version in self._live or ():
            one = self._stored(version)
            left = sorted(set(one.partitions) - foreign)
            if left != sorted(one.partitions):
                meta |= _meta(version, replace(one, partitions=tuple(left)))
        if meta:
            # Stored at once: after a crash nothing else would tell that another worker has had them.
            self._store.put_many(np.empty(0, np.int64), np.empty(0, self._store.dtype), [], meta)

    def embedded(self, partition: int) -> list[str]:
        """Live tower versions with an acknowledged row of every Pin of this partition."""
        live = self._settled if self._live is None else self._live
        return [version for version in live if partition in self._settled.get(version, ())]

    def acknowledged(self) -> None:
        """Note that every row handed out so far is acknowledged: checkpoints may say what is complete."""
        self._settled |= {version: set(one.complete) for version, one in self.progress.items()}

    def lost(self, version: str, partitions: Collection[int]) -> None:
        """Note that a Pin of each of these partitions gets no row of this tower at an event.

        The partitions are complete no longer. Store `meta_of` this version together with the batch of the
        event: a pass that has gone past the Pin would otherwise end as complete after a restart.
        """
        if version in self._settled:
            self._settled[version] -= set(partitions)
        if self._by_worker:
            one = self.progress.get(version) or self._stored(version)
            self.progress[version] = _without(one, partitions)

    def meta_of(self, versions: Iterable[str]) -> dict[str, bytes]:
        """The progress of these tower versions as it is now, as store metadata.

        Every row handed out so far has to be acknowledged before it is stored.
        """
        if not self._by_worker:
            return {}
        return {
            name: value
            for version in versions
            if version in self.progress
            for name, value in _meta(version, self.progress[version]).items()
        }

    def drops(self, versions: Collection[str]) -> bool:
        """Whether these versions lack a tower that was live until now."""
        return self._live is not None and not set(self._live) <= set(versions)

    def next_chunk(self, towers: Sequence[PinEmbedder], partitions: frozenset[int]) -> Chunk | None:
        """The next rows to produce, or None when the backfills of these partitions are done.

        Raises Refused when the serving tower can embed no Pin of a chunk.
        """
        self._note_live([tower.version for tower in towers])
        if not partitions or not self._by_worker:
            return None
        for ordinal, tower in enumerate(towers):
            progress = self._of(tower.version, partitions)
            if not progress.done:
                return self._chunk(ordinal, tower, progress, partitions)
        return None

    def _note_live(self, versions: list[str]) -> None:
        """Note what is live now. The backfill of a tower that was off the live list starts over.

        That tower has no rows of what changed while it was not live.
        """
        if versions == self._live:
            return
        back = [one for one in versions if self._live is not None and one not in self._live]
        self.progress |= dict.fromkeys(back, Progress())
        meta = {_LIVE: json.dumps(versions).encode()}
        for version in back:
            meta |= _meta(version, Progress())
        self._store.put_many(np.empty(0, np.int64), np.empty(0, self._store.dtype), [], meta)
        self._live = versions
        self._settled = {one: numbers for one, numbers in self._settled.items() if one in versions}

    def _of(self, version: str, partitions: frozenset[int]) -> Progress:
        """The progress of a backfill of these partitions, which may not be the ones that it had before."""
        known = self.progress.get(version) or self._stored(version)
        missing = partitions - set(known.complete) - (set(known.lacking) - set(known.partitions))
        if not missing <= set(known.partitions):
            # A partition that came later may have Pins below `after`. Start over: a second row does no harm.
            known = replace(known, after=-1, lacking=tuple(sorted(set(known.lacking) - missing)), failed=0)
        # Partitions that went drop out of the pass: their Pins change at another worker now.
        self.progress[version] = replace(known, partitions=tuple(sorted(missing)), done=not missing)
        return self.progress[version]

    def _stored(self, version: str) -> Progress:
        """The progress at the start of a process.

        Checkpoints say what is complete, for whoever owned a partition; the store says how far a pass got.
        """
        complete = sorted(number for number, one in self._checkpoints.items() if version in one.embedded)
        value = self._store.get_meta(_name(version))
        if value is None:
            return Progress(complete=tuple(complete))
        stored = json.loads(value)
        # A pass under way keeps what it has found lacking. What a finished pass lacked is tried again.
        under_way = set(stored["partitions"])
        lacking = tuple(one for one in stored.get("lacking", ()) if one in under_way)
        return Progress(
            after=stored["after"],
            partitions=tuple(stored["partitions"]),
            complete=tuple(complete),
            pins=stored["pins"],
            lacking=lacking,
            failed=stored.get("failed", 0) if under_way else 0,
        )

    def _chunk(
        self, ordinal: int, tower: PinEmbedder, progress: Progress, partitions: frozenset[int]
    ) -> Chunk:
        records, tails = next(
            self._store.scan(self._chunk_pins, after=progress.after),
            (np.empty(0, self._store.dtype), list[bytes]()),
        )
        if not len(records):
            complete = tuple(sorted(partitions - set(progress.lacking)))
            through = replace(progress, after=-1, partitions=(), complete=complete, done=True)
            self.progress[tower.version] = through
            return Chunk(ordinal, tower.version, through, EmbeddedRows(tower.version, [], [], []))
        last = int(records["pin_id"][-1])
        ours = np.flatnonzero(np.isin(records["partition"], progress.partitions))
        if (chosen := self._tiers.chosen(records["pin_id"][ours])) is not None:
            ours = ours[chosen]
        records = records[ours]
        tails = [tails[place] for place in ours.tolist()]
        output = embed_as_placed(ordinal, tower, records)
        left_out = None
        if output.failed.any():
            # No event is at hand that could be dead-lettered: the Pin's next event will be.
            left = records[output.failed]
            of = frozenset(left["partition"].tolist())
            left_out = LeftOut(ordinal, tower.version, left["pin_id"], of)
            progress = replace(progress, failed=progress.failed + len(left))
            if ordinal > 0:
                progress = replace(progress, lacking=tuple(sorted(of | set(progress.lacking))))
            keep = ~output.failed
            records, tails = records[keep], [tails[place] for place in np.flatnonzero(keep).tolist()]
            output = output.only(keep)
        rows = embedded_rows(tower.version, records, tails, output.vectors, output.input_mask)
        moved = replace(progress, after=last, pins=progress.pins + len(rows))
        self.progress[tower.version] = moved
        return Chunk(ordinal, tower.version, moved, rows, left_out)


def _without(one: Progress, partitions: Collection[int]) -> Progress:
    """Mark these partitions as lacking rows; those that no pass has begun stay as they are."""
    begun = {*one.complete, *one.partitions} & set(partitions)
    complete = tuple(sorted(set(one.complete) - begun))
    return replace(one, complete=complete, lacking=tuple(sorted({*one.lacking, *begun})))


def _meta(version: str, progress: Progress) -> dict[str, bytes]:
    """The progress of one tower version as store metadata."""
    return {_name(version): json.dumps(asdict(progress)).encode()}


def _name(version: str) -> str:
    return f"backfill/{version}"
