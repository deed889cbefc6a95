"""The snapshot cutter: reads embedded Pins, keeps the newest of each, writes hourly snapshots.

The snapshot is the checkpoint. Offsets are committed only for what a snapshot on disk covers, and a
cutter that starts loads the newest snapshots and reads on from the offsets in their manifests. As the
table depends on nothing but the set of rows below those offsets, a crash changes no later snapshot.

Partitions are assigned, not shared out by a group: a snapshot needs all of them. Rows of other tiers'
Pins are passed over; what the batch embedder has written of a live version is folded in.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from index.embedding_table import EmbeddingTable
from index.snapshots import write_snapshot
from schemas.manifests import SnapshotManifest, TowerManifest
from schemas.topics import PIN_EMBEDDED

from .checkpoints import (
    Positions,
    check_not_ahead,
    newest_base,
    newest_snapshot,
    positions,
    start_positions,
)
from .cut_gate import CutGate
from .cut_policy import CutPolicy, Due, Ints
from .cutter_around import CutterSettings, CutterSurroundings, LetterOutlet, Letters
from .cutter_report import CutterCounts, CutterPosition, CutterReport
from .embedded_batches import DecodedRows, EmbeddedDecoder, Message
from .embedded_topic import EmbeddedTopic
from .tier_rows import event_times, of_tier, rows_of_tier

__all__ = ["Cutter", "CutterCounts", "CutterSettings", "CutterSurroundings", "LetterOutlet", "Letters"]

log = logging.getLogger(__name__)

_LOOK_MS = 1_000
"""How often LIVE is looked at between two cuts."""
_PATIENCE = 150
"""So many empty reads (30 s) and what was there at the start has been read, whatever the offsets say."""


class Cutter:
    """Reads pin.embedded.v1 and cuts snapshots of each live tower version."""

    def __init__(
        self, topic: EmbeddedTopic, settings: CutterSettings, policy: CutPolicy, around: CutterSurroundings
    ) -> None:
        self._topic, self._settings, self._policy = topic, settings, policy
        self._around = around
        self._table = EmbeddingTable()
        self._gate = CutGate(self._table)
        self._decoder = EmbeddedDecoder()
        self._towers: dict[str, TowerManifest] = {}
        self._covered: dict[str, Positions] = {}
        self._durable: dict[str, Positions] = {}
        self._assigned_times = 0
        self._reading: Positions = {}
        self._folded: dict[str, set[str]] = {}
        self._backlog: Positions = {}
        self._silent = 0
        self._looked_ms = 0
        self.counts = CutterCounts()
        self._report = CutterReport(settings.tier.name, around.before, around.clock_ms())

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
        self._backlog = self._topic.ends()
        self._tell()

    def step(self) -> int:
        """Read one batch, cut where a cut is due; returns how many messages came."""
        # A clock that was set back would otherwise keep it from looking for as long as that.
        if not 0 <= self._around.clock_ms() - self._looked_ms < _LOOK_MS:
            self._adopt_live()
        messages = self._topic.read(self._settings.batch_size, self._settings.poll_seconds)
        self._silent = 0 if messages else self._silent + 1
        if messages:
            self._apply(messages)
        else:
            self._cut_when_due(np.empty(0, np.int64))
        if self._report.due(self._around.clock_ms()):
            self._tell()
        return len(messages)

    def cut(self) -> list[SnapshotManifest]:
        """Cut now, whatever the policy: at the end of a replay."""
        return self._cut(self._policy.open_hour_ms(self._around.clock_ms()))

    def _adopt_live(self) -> bool:
        """Follow the live towers; true when reading jumped, and the batch at hand has to be dropped.

        A new one starts from its newest snapshot; without any it needs every row of its own, so
        reading starts over.
        """
        self._looked_ms = self._around.clock_ms()
        towers = {tower.tower_version: tower for tower in self._around.live()}
        if list(towers) == list(self._towers) and self._reading:
            return False
        self._towers = towers
        new = self._table.keep({version: tower.dimension for version, tower in self._towers.items()})
        self._gate.keep(self._towers)
        self._folded = {version: self._folded.get(version, set()) for version in self._towers}
        self._covered = {version: self._covered.get(version, {}) for version in self._towers}
        self._durable = {version: self._durable.get(version, {}) for version in self._towers}
        if new:
            self._gate.take_stock()
        resumed: list[SnapshotManifest] = []
        for version in new:
            found = newest_snapshot(self._settings.snapshots, self._settings.tier.name, version)
            if found is not None:
                manifest, rows = found
                ours = rows_of_tier(rows, self._settings.tier)
                # A snapshot with Pins of other tiers is refused: one without them is cut soon.
                self._table.load(version, ours, changed=len(ours) < len(rows))
                self._gate.remember(version)
                self._covered[version], self._durable[version] = positions(manifest), positions(manifest)
                resumed.append(manifest)
        self._fold_bases()
        if not self._reading and (last := self._report.last_hour(resumed)) is not None:
            self._policy = self._policy.after_cut_of(last)
        jumps = bool(new) or not self._reading
        if jumps:
            self._assign()
        for manifest in resumed:
            self._around.on_snapshot(manifest)
        self._report.hasten()
        return jumps

    def _fold_bases(self) -> None:
        """Fold in what the batch embedder has written of the live versions since the last look."""
        for version in self._towers:
            known = self._folded[version]
            found = newest_base(self._settings.snapshots, self._settings.tier.name, version, known)
            if found is not None:
                manifest, rows = found
                count = self._table.fold(version, rows_of_tier(rows, self._settings.tier))
                known.add(manifest.snapshot_id)
                log.info("folded %s: %d of %d rows are newer", manifest.snapshot_id, count, manifest.rows)

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
        ours = of_tier(decoded, self._settings.tier)
        self.counts.other_tiers_rows += len(decoded.batch) - len(ours.batch)
        self._apply_rows(messages, ours)

    def _decode(self, messages: list[Message]) -> DecodedRows:
        dimensions = {version: tower.dimension for version, tower in self._towers.items()}
        return self._decoder.decode(messages, dimensions)

    def _apply_rows(self, messages: list[Message], decoded: DecodedRows) -> None:
        """Apply rows up to each cut that is due among them, cut, and go on unless the cut made us jump."""
        times = event_times(decoded.batch.attributes)
        row = place = 0
        assigned_times = self._assigned_times
        while (due := self._due(times[row:])) is not None:
            upto = row + due.row
            stop = int(decoded.places[upto]) if upto < len(decoded.places) else len(messages)
            self.counts.rows += self._table.apply(decoded.batch.part(row, upto))
            self._advance(messages[place:stop])
            self._cut_due(due)
            row, place = upto, stop
            if self._assigned_times != assigned_times:
                return
        self.counts.rows += self._table.apply(decoded.batch.part(row, len(times)))
        self._advance(messages[place:])
        self.counts.late_rows += self._policy.late(times[row:])
        self.counts.newest_event_ms = max(self.counts.newest_event_ms, int(times.max(initial=0)))

    def _due(self, occurred_at_ms: Ints) -> Due | None:
        if self._policy.clock == "wall" and self._has_backlog():
            return None
        due, self._policy = self._policy.step(occurred_at_ms, self._around.clock_ms())
        return due

    def _has_backlog(self) -> bool:
        """Whether what was on the topic at the start is still unread: a cut that is overdue waits for it."""
        if self._backlog and self._silent < _PATIENCE:
            self._backlog = {n: end for n, end in self._backlog.items() if self._reading.get(n, 0) < end}
        else:
            self._backlog = {}
        return bool(self._backlog)

    def _cut_when_due(self, occurred_at_ms: Ints) -> None:
        if (due := self._due(occurred_at_ms)) is not None:
            self._cut_due(due)

    def _cut_due(self, due: Due) -> None:
        self._report.cut(due)
        self._cut(due.hour_ms)
        self._tell()

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
        self._fold_bases()
        # All are looked at before one is written: what counts is what the others had at the cut before.
        worth = [one for one in self._towers if self._table.changed(one) and not self._gate.lacks(one)]
        cut = [self._write(version, hour_ms) for version in worth]
        self._report.hasten()
        if self._settle_unchanged() or cut:
            self._commit()
        for manifest in cut:
            self.counts.snapshots += 1
            log.info("snapshot %s: %d rows", manifest.snapshot_id, manifest.rows)
            self._around.on_snapshot(manifest)
        return cut

    def _write(self, version: str, hour_ms: int) -> SnapshotManifest:
        manifest = write_snapshot(
            self._settings.snapshots,
            self._table.rows(version),
            tier=self._settings.tier.name,
            hour_ms=hour_ms,
            clock=self._policy.clock,
            pin_inputs=list(self._towers[version].pin_inputs),
            offsets={PIN_EMBEDDED.name: dict(sorted(self._covered[version].items()))},
        )
        self._table.mark_cut(version)
        self._gate.remember(version)
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

    def _tell(self) -> None:
        position = CutterPosition(list(self._towers), self._reading, self._topic.lag(self._reading))
        status = self._report.status(self._around.clock_ms(), self.counts, position, self._table, self._gate)
        if self._around.show is not None:
            self._around.show(status)
