"""A new tower becomes live: every stored Pin gets a row of it, in chunks between the polls.

Which partitions are through is told to the next owner in their checkpoints; how far the pass over the
others got is kept in the store, so a restart goes on from there. States are read at the moment they are
embedded, never from an older view: a row must not be behind one that is out already.

A Pin that a tower cannot embed is passed over. Of the serving tower that is the end of it. A partition in
which another tower lacks a row is not called complete to anybody, so the next start tries it again.
"""

import json
from collections.abc import Collection, Mapping, Sequence
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
    """How far one tower version is: `complete` partitions, and a pass over `partitions` up to id `after`."""

    after: int = -1
    partitions: tuple[int, ...] = ()
    complete: tuple[int, ...] = ()
    pins: int = 0
    done: bool = False
    """Whether every partition of this worker is complete or was passed over with Pins lacking."""
    lacking: tuple[int, ...] = ()
    """Partitions with Pins that this tower, not the serving one, could not embed: not gone over again here
    once a pass over them is through."""
    failed: int = 0
    """Pins that the pass could not embed."""

    def told(self) -> str:
        """How far it got, for the log."""
        return f"{f'all but {self.failed} Pins' if self.failed else 'every Pin'} ({self.pins})"


@dataclass(frozen=True)
class Chunk:
    """Rows to produce, and the metadata to store once they are acknowledged."""

    ordinal: int
    version: str
    progress: Progress
    rows: EmbeddedRows
    left_out: LeftOut | None = None

    def meta(self) -> dict[str, bytes]:
        """The progress, as store metadata."""
        return {_name(self.version): json.dumps(asdict(self.progress)).encode()}


class Backfill:
    """The backfills of one worker, one tower version after the other, in live order.

    `by_worker` false: the batch job makes them. Then nothing is embedded here, and no tower is called
    complete here either; what an earlier owner has called complete stays so while its tower is live.
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
        """Partitions were assigned: their checkpoints say which towers have all of their Pins already.

        `foreign`: another worker had these meanwhile. A pass that is half through them is behind Pins that
        may have become what they are there, so it starts over.
        """
        self._checkpoints = checkpoints
        self.progress, self._settled = {}, {}
        # What was told stays true until it is taken back: an owner that has had no turn yet repeats it.
        for number, one in checkpoints.items():
            for version in one.embedded:
                self._settled.setdefault(version, set()).add(number)
        self._start_over(set(foreign))

    def _start_over(self, foreign: set[int]) -> None:
        meta = {
            _name(version): json.dumps(asdict(replace(one, partitions=tuple(left)))).encode()
            for version in self._live or ()
            if (left := sorted(set((one := self._stored(version)).partitions) - foreign))
            != sorted(one.partitions)
        }
        if meta:
            # Stored: after a crash that comes first nothing would tell of the other worker any more.
            self._store.put_many(np.empty(0, np.int64), np.empty(0, self._store.dtype), [], meta)

    def embedded(self, partition: int) -> list[str]:
        """Live versions of which every Pin of the partition has an acknowledged row."""
        live = self._settled if self._live is None else self._live
        return [version for version in live if partition in self._settled.get(version, ())]

    def acknowledged(self) -> None:
        """Every row handed out so far is acknowledged: what is complete may be told to others."""
        self._settled |= {version: set(one.complete) for version, one in self.progress.items()}

    def lost(self, version: str, partitions: Collection[int]) -> None:
        """Pins of these partitions got no row of this tower at an event: they are complete no longer."""
        if version in self._settled:
            self._settled[version] -= set(partitions)
        if self._by_worker:
            one = self.progress.get(version) or self._stored(version)
            self.progress[version] = _without(one, partitions)

    def drops(self, versions: Collection[str]) -> bool:
        """Whether a tower that was live until now is not among these versions."""
        return self._live is not None and not set(self._live) <= set(versions)

    def next_chunk(self, towers: Sequence[PinEmbedder], partitions: frozenset[int]) -> Chunk | None:
        """The next rows to produce, or None when all towers have all Pins of these partitions.

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
        """A tower that comes back missed what changed while it was not live: its backfill starts over."""
        if versions == self._live:
            return
        back = [one for one in versions if self._live is not None and one not in self._live]
        self.progress |= dict.fromkeys(back, Progress())
        meta = {_name(version): json.dumps(asdict(Progress())).encode() for version in back}
        meta[_LIVE] = json.dumps(versions).encode()
        self._store.put_many(np.empty(0, np.int64), np.empty(0, self._store.dtype), [], meta)
        self._live = versions
        self._settled = {one: numbers for one, numbers in self._settled.items() if one in versions}

    def _of(self, version: str, partitions: frozenset[int]) -> Progress:
        known = self.progress.get(version) or self._stored(version)
        missing = partitions - set(known.complete) - (set(known.lacking) - set(known.partitions))
        if not missing <= set(known.partitions):
            # Pins of a partition that came later may lie below `after`: start over, repeats are harmless.
            known = replace(known, after=-1, lacking=tuple(sorted(set(known.lacking) - missing)), failed=0)
        # Those that went are another worker's: our states of their Pins fall behind its.
        self.progress[version] = replace(known, partitions=tuple(sorted(missing)), done=not missing)
        return self.progress[version]

    def _stored(self, version: str) -> Progress:
        """What checkpoints and store say at the start; checkpoints speak for whoever owned a partition."""
        complete = sorted(number for number, one in self._checkpoints.items() if version in one.embedded)
        value = self._store.get_meta(_name(version))
        if value is None:
            return Progress(complete=tuple(complete))
        stored = json.loads(value)
        # A pass goes on with what it has found; partitions that an earlier one found lacking are tried again.
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
            # Without an event there is nothing to dead-letter; the Pin's next event says so.
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
    """These are complete no longer; those that no pass has begun with are left to the one that will."""
    begun = {*one.complete, *one.partitions} & set(partitions)
    complete = tuple(sorted(set(one.complete) - begun))
    return replace(one, complete=complete, lacking=tuple(sorted({*one.lacking, *begun})))


def _name(version: str) -> str:
    return f"backfill/{version}"
