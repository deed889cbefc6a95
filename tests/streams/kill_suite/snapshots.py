"""A reader that looks at every snapshot as it appears, and once more when all is known."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from index.snapshots import list_snapshots, read_snapshot
from schemas.errors import Refused
from schemas.topics import PIN_EMBEDDED
from tests.streams.history import Published, duplicates

Revision = tuple[int, int]
Rows = dict[int, tuple[Revision, int]]
"""Pin -> revision and price."""

_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Snapshot:
    """What a reader saw in one."""

    snapshot_id: str
    offsets: Mapping[int, int]
    rows: Rows
    duplicates: int


@dataclass
class SnapshotFaults:
    """Counts over all snapshots of a run; all have to be 0 but the first."""

    snapshots: int = 0
    unreadable: int = 0
    """Published, and refused by a reader: a file missing, changed, or not what its manifest says."""
    duplicates: int = 0
    """Rows of a Pin and version beyond the first."""
    reverted_rows: int = 0
    """Rows that are older than in the snapshot before, or gone."""
    forked: int = 0
    """Snapshots that cover more of one partition and less of another than the one before."""
    wrong_rows: int = 0
    """Rows that are not the fold of the published rows below the offsets that the manifest names."""


class SnapshotReader:
    """Reads each snapshot when it is published, from a thread of its own, while others are cut."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.seen: dict[str, Snapshot] = {}
        self.refused: dict[str, str] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshot-reader", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Read what is new."""
        for snapshot_id in list_snapshots(self._root):
            if snapshot_id not in self.seen and snapshot_id not in self.refused:
                try:
                    self.seen[snapshot_id] = _read(self._root, snapshot_id)
                except Refused as error:
                    self.refused[snapshot_id] = str(error)

    @property
    def newest(self) -> Snapshot:
        """The one that covers most; an empty one before the first."""
        seen = [Snapshot("none", {}, {}, 0), *self.seen.copy().values()]
        return max(seen, key=lambda one: sum(one.offsets.values()))

    @property
    def covers(self) -> Mapping[int, int]:
        """Partition -> offset that the newest snapshot covers."""
        return self.newest.offsets

    def close(self) -> None:
        """End the thread and read what is left."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._thread.join()
            self.look()


def _read(root: Path, snapshot_id: str) -> Snapshot:
    manifest, rows = read_snapshot(root, snapshot_id)
    codes = [rows.versions[code] for code in rows.version_code.tolist()]
    columns = ("pin_id", "changed_offset", "aggregated_offset", "price_micros")
    pins, changed, aggregated, prices = (rows.attributes[name].tolist() for name in columns)
    return Snapshot(
        snapshot_id,
        manifest.offsets[PIN_EMBEDDED.name],
        {pin: ((c, a), price) for pin, c, a, price in zip(pins, changed, aggregated, prices, strict=True)},
        duplicates(zip(pins, codes, strict=True)),
    )


def judge(reader: SnapshotReader, published: Sequence[Published]) -> SnapshotFaults:
    """Compare the snapshots with each other and with the rows that they say they cover."""
    faults = SnapshotFaults(snapshots=len(reader.seen), unreadable=len(reader.refused))
    fold = _TopicFold(published)
    before: Snapshot | None = None
    for one in sorted(reader.seen.values(), key=lambda one: sum(one.offsets.values())):
        faults.duplicates += one.duplicates
        if before is not None:
            faults.forked += any(one.offsets.get(n, 0) < offset for n, offset in before.offsets.items())
            faults.reverted_rows += _reverted(before.rows, one.rows)
        wanted = fold.up_to(one.offsets)
        faults.wrong_rows += sum(wanted.get(pin) != one.rows.get(pin) for pin in wanted.keys() | one.rows)
        before = one
    return faults


def _reverted(before: Rows, after: Rows) -> int:
    return sum(pin not in after or _age(after[pin][0]) < _age(row[0]) for pin, row in before.items())


def _age(revision: Revision) -> Revision:
    """Ascending from older to newer, as readers of the topic have it."""
    return sum(revision), revision[0]


class _TopicFold:
    """The newest row of each Pin below given offsets, which only grow from call to call."""

    def __init__(self, published: Iterable[Published]) -> None:
        self._waiting: dict[int, list[Published]] = {}
        for row in sorted(published, key=lambda row: row.offset, reverse=True):
            self._waiting.setdefault(row.partition, []).append(row)
        self._rows: Rows = {}

    def up_to(self, offsets: Mapping[int, int]) -> Rows:
        for partition, offset in offsets.items():
            waiting = self._waiting.get(partition, [])
            while waiting and waiting[-1].offset < offset:
                row = waiting.pop()
                pin = row.key[0]
                if pin not in self._rows or _age(row.revision) > _age(self._rows[pin][0]):
                    self._rows[pin] = (row.revision, row.fields["price_micros"])
        return self._rows
