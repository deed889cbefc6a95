"""The snapshot cutter: reads embedded Pins, keeps the newest of each, writes hourly snapshots.

The snapshot is the checkpoint. Offsets are committed only for what a snapshot on disk covers, and a
cutter that starts loads the newest snapshots and reads on from the offsets in their manifests. As the
table depends on nothing but the set of rows below those offsets, a crash changes no later snapshot.

Partitions are assigned, not shared out by a group: a snapshot needs all of them, and a second cutter
would write the same bytes under the same name.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from index.embedding_table import Applied, EmbeddingTable
from index.snapshots import write_snapshot
from schemas.manifests import SnapshotManifest, TowerManifest
from schemas.topics import PIN_EMBEDDED

from .checkpoints import Positions, check_not_ahead, newest_snapshot, positions, start_positions
from .cut_policy import CutPolicy, Ints
from .dead_letters import Headers
from .embedded_batches import DecodedRows, EmbeddedDecoder, Message
from .embedded_topic import EmbeddedTopic
from .sources import DeadLetter

log = logging.getLogger(__name__)

Letters = Sequence[tuple[DeadLetter, Headers | None]]


class LetterOutlet(Protocol):
    """Where poison goes; `streams.outlet.Outlet` is one."""

    def produce_letters(self, letters: Letters, /) -> None:
        """Queue dead letters."""
        ...

    def wait(self) -> None:
        """Return when all are acknowledged; raise when one cannot be."""
        ...


@dataclass(frozen=True)
class CutterSettings:
    """Where snapshots go, under which tier, and how much is read at a time."""

    snapshots: Path
    tier: str = "realtime"
    batch_size: int = 5_000
    poll_seconds: float = 0.2


@dataclass(frozen=True)
class Surroundings:
    """What the cutter is given: who is live (serving tower first), the time, and where things go.

    `on_snapshot` is called after each cut, and at start for the snapshots resumed from, because a crash
    may have come between: calling it twice for one snapshot has to be harmless. What it raises ends the run.
    """

    live: Callable[[], Sequence[TowerManifest]]
    clock_ms: Callable[[], int]
    outlet: LetterOutlet
    on_snapshot: Callable[[SnapshotManifest], None]


@dataclass
class CutterCounts:
    """What has happened since the start, for telemetry."""

    rows: Applied = field(default_factory=Applied)
    dead_letters: int = 0
    snapshots: int = 0
    skipped_offsets: int = 0
    """Offsets that never came: compacted away, or evicted by an embedded broker before they were read."""
    newest_event_ms: int = 0


class Cutter:
    """Reads pin.embedded.v1 and cuts snapshots of each live tower version."""

    def __init__(
        self, topic: EmbeddedTopic, settings: CutterSettings, policy: CutPolicy, surroundings: Surroundings
    ) -> None:
        self._topic, self._settings, self._policy = topic, settings, policy
        self._around = surroundings
        self._table = EmbeddingTable()
        self._decoder = EmbeddedDecoder()
        self._towers: dict[str, TowerManifest] = {}
        self._covered: dict[str, Positions] = {}
        self._durable: dict[str, Positions] = {}
        self._assigned_times = 0
        self._reading: Positions = {}
        self.counts = CutterCounts()

    @property
    def positions(self) -> Positions:
        """Partition -> next offset to read. Ahead of the committed offsets by what the next snapshot adds."""
        return dict(self._reading)

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Read and cut until `should_stop`. Raises RetryableError when Kafka is out of reach for good."""
        self.start()
        while not should_stop():
            self.step()

    def start(self) -> None:
        """Load the checkpoints and take the partitions. Raises Refused when they do not fit the topic."""
        self._adopt_live()

    def step(self) -> int:
        """Read one batch, cut where a cut is due; returns how many messages came."""
        messages = self._topic.read(self._settings.batch_size, self._settings.poll_seconds)
        if messages:
            self._apply(messages)
        else:
            self._cut_when_due(np.empty(0, np.int64))
        return len(messages)

    def cut(self) -> list[SnapshotManifest]:
        """Cut now, whatever the policy: at the end of a replay."""
        return self._cut(self._policy.open_hour_ms(self._around.clock_ms()))

    def _adopt_live(self) -> bool:
        """Follow the live towers; true when reading jumped, and the batch at hand has to be dropped.

        A new one starts from its newest snapshot; without any it needs every row of its own, so
        reading starts over.
        """
        self._towers = {tower.tower_version: tower for tower in self._around.live()}
        new = self._table.keep({version: tower.dimension for version, tower in self._towers.items()})
        self._covered = {version: self._covered.get(version, {}) for version in self._towers}
        self._durable = {version: self._durable.get(version, {}) for version in self._towers}
        resumed: list[SnapshotManifest] = []
        for version in new:
            found = newest_snapshot(self._settings.snapshots, self._settings.tier, version)
            if found is not None:
                manifest, rows = found
                self._table.load(version, rows)
                self._covered[version], self._durable[version] = positions(manifest), positions(manifest)
                resumed.append(manifest)
        if resumed and not self._reading:
            self._policy = self._policy.after_cut_of(max(manifest.hour_ms for manifest in resumed))
        jumps = bool(new) or not self._reading
        if jumps:
            self._assign()
        for manifest in resumed:
            self._around.on_snapshot(manifest)
        return jumps

    def _assign(self) -> None:
        ends = self._topic.ends()
        for covered in self._covered.values():
            check_not_ahead({n: offset for n, offset in covered.items() if n in ends}, ends)
        self._reading = start_positions(self._covered.values(), ends)
        self._topic.read_from(self._reading)
        self._assigned_times += 1
        log.info("reading %d partitions from %s", len(self._reading), sum(self._reading.values()))

    def _apply(self, messages: list[Message]) -> None:
        decoded = self._decode(messages)
        if not set(decoded.batch.versions) <= self._towers.keys() and self._adopt_live():
            return
        if decoded.letters:
            self._around.outlet.produce_letters([(letter, None) for letter in decoded.letters])
            self._around.outlet.wait()
            self.counts.dead_letters += len(decoded.letters)
        self._apply_rows(messages, decoded)

    def _decode(self, messages: list[Message]) -> DecodedRows:
        dimensions = {version: tower.dimension for version, tower in self._towers.items()}
        return self._decoder.decode(messages, dimensions)

    def _apply_rows(self, messages: list[Message], decoded: DecodedRows) -> None:
        """Apply rows up to each cut that is due among them, cut, and go on unless the cut made us jump."""
        times = _event_times(decoded.batch.attributes)
        row = place = 0
        assigned_times = self._assigned_times
        while (due := self._due(times[row:])) is not None:
            upto = row + due[0]
            stop = int(decoded.places[upto]) if upto < len(decoded.places) else len(messages)
            self.counts.rows += self._table.apply(decoded.batch.part(row, upto))
            self._advance(messages[place:stop])
            self._cut(due[1])
            row, place = upto, stop
            if self._assigned_times != assigned_times:
                return
        self.counts.rows += self._table.apply(decoded.batch.part(row, len(times)))
        self._advance(messages[place:])
        self.counts.newest_event_ms = max(self.counts.newest_event_ms, int(times.max(initial=0)))

    def _due(self, occurred_at_ms: Ints) -> tuple[int, int] | None:
        due, self._policy = self._policy.step(occurred_at_ms, self._around.clock_ms())
        return None if due is None else (due.row, due.hour_ms)

    def _cut_when_due(self, occurred_at_ms: Ints) -> None:
        if (due := self._due(occurred_at_ms)) is not None:
            self._cut(due[1])

    def _advance(self, messages: Sequence[Message]) -> None:
        for message in messages:
            expected = self._reading.get(message.partition, 0)
            self.counts.skipped_offsets += max(message.offset - expected, 0)
            self._reading[message.partition] = message.offset + 1
        for covered in self._covered.values():
            # After a rewind a version may have more than what has been read again.
            for number in {message.partition for message in messages}:
                covered[number] = max(covered.get(number, 0), self._reading[number])

    def _cut(self, hour_ms: int) -> list[SnapshotManifest]:
        """Write a snapshot of each live version that changed; then commit, then tell."""
        self._adopt_live()
        cut = [self._write(version, hour_ms) for version in self._towers if self._is_worth_a_cut(version)]
        if self._settle_unchanged() or cut:
            self._commit()
        for manifest in cut:
            self.counts.snapshots += 1
            log.info("snapshot %s: %d rows", manifest.snapshot_id, manifest.rows)
            self._around.on_snapshot(manifest)
        return cut

    def _is_worth_a_cut(self, version: str) -> bool:
        """Changed, not empty, and with a row for every Pin that any other live tower has.

        Any other, not just the serving one: an operator may put a new tower first in LIVE before its
        backfill is through. The worker writes a Pin's rows in live order, so the older tower is never
        behind for longer than a batch.
        """
        return self._table.changed(version) and all(
            self._table.covers(version, other) for other in self._towers
        )

    def _write(self, version: str, hour_ms: int) -> SnapshotManifest:
        manifest = write_snapshot(
            self._settings.snapshots,
            self._table.rows(version),
            tier=self._settings.tier,
            hour_ms=hour_ms,
            clock=self._policy.clock,
            pin_inputs=list(self._towers[version].pin_inputs),
            offsets={PIN_EMBEDDED.name: dict(sorted(self._covered[version].items()))},
        )
        self._table.mark_cut(version)
        self._durable[version] = positions(manifest)
        return manifest

    def _settle_unchanged(self) -> bool:
        """A version's newest snapshot also covers rows that changed nothing; true when some were read.

        Redelivered rows are such. Without this the group's lag would never come down to 0.
        """
        still = [version for version in self._towers if not self._table.changed(version)]
        moved = [one for one in still if self._durable[one] and self._durable[one] != self._covered[one]]
        for version in moved:
            self._durable[version] = dict(self._covered[version])
        return bool(moved)

    def _commit(self) -> None:
        """Commit what the newest snapshots of all live versions cover."""
        self._topic.commit(start_positions(self._durable.values(), self._reading))


def _event_times(attributes: npt.NDArray[np.void]) -> Ints:
    """When each row's event happened, at the latest when the broker had it (0: not known).

    One event of the year 2033 would otherwise close the hours up to then, and no other hour would be cut.
    """
    occurred_ms, ingested_ms = attributes["occurred_at_ms"], attributes["ingested_at_ms"]
    known = ingested_ms > 0
    return np.where(known, np.minimum(occurred_ms, ingested_ms), occurred_ms).astype(np.int64)
