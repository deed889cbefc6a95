"""Where the cutter stands: the newest good snapshot of each live tower version is its checkpoint.

What the batch embedder has written of a version is a base besides: its rows are folded in, and say
nothing about how far pin.embedded.v1 has been read.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from index.snapshots import SnapshotRows, list_snapshots, read_snapshot, snapshot_manifest
from schemas.errors import Refused
from schemas.manifests import SnapshotManifest
from schemas.topics import PIN_EMBEDDED, PIN_FEATURES

log = logging.getLogger(__name__)

Positions = dict[int, int]
"""Partition of pin.embedded.v1 -> next offset to read."""


def newest_snapshot(root: Path, tier: str, version: str) -> tuple[SnapshotManifest, SnapshotRows] | None:
    """The readable snapshot of one tower version that was cut from the stream and covers most, or None.

    A damaged one is passed over: an older one gives the same table, after more reading.
    """
    return _first_readable(root, _newest_first(root, tier, version, "stream", PIN_EMBEDDED.name))


def newest_base(
    root: Path, tier: str, version: str, known: Collection[str]
) -> tuple[SnapshotManifest, SnapshotRows] | None:
    """The readable batch snapshot of one tower version that covers most; None if it is a `known` one."""
    found = _newest_first(root, tier, version, "batch", PIN_FEATURES.name)
    if found and found[0].snapshot_id in known:
        return None
    return _first_readable(root, [one for one in found if one.snapshot_id not in known])


def _first_readable(
    root: Path, manifests: Sequence[SnapshotManifest]
) -> tuple[SnapshotManifest, SnapshotRows] | None:
    for manifest in manifests:
        try:
            return read_snapshot(root, manifest.snapshot_id)
        except Refused as error:
            log.warning("snapshot %s is no checkpoint: %s", manifest.snapshot_id, error)
    return None


def _newest_first(root: Path, tier: str, version: str, source: str, topic: str) -> list[SnapshotManifest]:
    manifests: list[SnapshotManifest] = []
    for snapshot_id in list_snapshots(root):
        try:
            manifest = snapshot_manifest(root, snapshot_id)
        except Refused as error:
            log.warning("snapshot %s is no checkpoint: %s", snapshot_id, error)
            continue
        if (manifest.tier, manifest.source) == (tier, source) and set(manifest.versions) == {version}:
            manifests.append(manifest)

    def covers(one: SnapshotManifest) -> tuple[int, int]:
        return sum(one.offsets.get(topic, {}).values()), one.hour_ms

    return sorted(manifests, key=covers, reverse=True)


def positions(manifest: SnapshotManifest) -> Positions:
    """The offsets of pin.embedded.v1 that the snapshot covers."""
    return dict(manifest.offsets.get(PIN_EMBEDDED.name, {}))


def start_positions(covered: Iterable[Mapping[int, int]], partitions: Iterable[int]) -> Positions:
    """Where to start reading so that every version gets what it lacks: the lowest of all, 0 for none.

    Reading rows that another version holds already is harmless: the newest row wins.
    """
    known = list(covered)
    return {number: min((one.get(number, 0) for one in known), default=0) for number in partitions}


def check_not_ahead(position: Mapping[int, int], ends: Mapping[int, int]) -> None:
    """Raises Refused when a snapshot covers rows that the topic (ending at `ends`) never had."""
    for number, offset in position.items():
        if offset > ends.get(number, 0):
            raise Refused(
                "snapshot_ahead_of_topic",
                expected=f"{PIN_EMBEDDED.name}[{number}] to reach offset {offset}, which a snapshot covers",
                came=f"a topic that ends at {ends.get(number, 0)}: it was made anew, or is another cluster's",
                fix="Move the snapshots away, together with the worker's state, and let both be rebuilt.",
            )
