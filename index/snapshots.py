"""The hourly snapshot: an immutable, content-addressed cut of the embedded Pins of one tier.

Sorted by (tower version, Pin id) and free of wall clock, so the same rows give the same bytes and the
same id, whoever cuts them and however often.
"""

import hashlib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from schemas.artefacts import (
    READY,
    file_entry,
    manifest_bytes,
    publish_staged,
    read_manifest,
    staged,
    verify_files,
    write_manifest,
)
from schemas.errors import Refused
from schemas.manifests import Offsets, SnapshotManifest
from schemas.tiers import TierPolicy

from .row_files import (
    ATTRIBUTES,
    ATTRIBUTES_FILE,
    VECTORS,
    SnapshotRows,
    read_rows,
    write_attributes,
    write_vectors,
)

__all__ = [
    "ATTRIBUTES",
    "SnapshotRows",
    "hour_name",
    "list_snapshots",
    "newest_of_tiers",
    "read_snapshot",
    "readable_snapshots",
    "snapshot_age",
    "snapshot_manifest",
    "write_snapshot",
]


def hour_name(hour_ms: int) -> str:
    """An hour as it appears in ids: UTC, compact ISO 8601, sorting as the hours do."""
    return datetime.fromtimestamp(hour_ms / 1000, UTC).strftime("%Y%m%dT%HZ")


def write_snapshot(
    root: Path,
    rows: SnapshotRows,
    *,
    tier: str,
    hour_ms: int,
    clock: Literal["event", "wall"],
    pin_inputs: list[str],
    offsets: Offsets,
    source: Literal["stream", "batch"] = "stream",
) -> SnapshotManifest:
    """Write `root/<snapshot_id>`, atomically; cutting the same rows again changes nothing on disk.

    `source` says whether they came from pin.embedded.v1 (`stream`) or were embedded all at once (`batch`).
    Raises Refused (`row_count`, `unknown_version`, `null_title`) for rows whose parts do not fit together.
    """
    rows = _sorted(_coherent(rows))
    with staged(root) as directory:
        write_vectors(directory, rows.vectors)
        write_attributes(directory, rows)
        manifest = SnapshotManifest(
            snapshot_id="unnamed",
            tier=tier,
            source=source,
            hour_ms=hour_ms,
            clock=clock,
            rows=len(rows),
            dimension=rows.vectors.shape[1],
            versions=rows.histogram(),
            pin_inputs=pin_inputs,
            offsets=offsets,
            newest_event_ms=int(rows.attributes["occurred_at_ms"].max(initial=0)),
            newest_ingest_ms=int(rows.attributes["ingested_at_ms"].max(initial=0)),
            files=[file_entry(directory / name) for name in (VECTORS, ATTRIBUTES_FILE)],
        )
        content = hashlib.sha256(manifest_bytes(manifest)).hexdigest()
        name = f"{tier}-{hour_name(hour_ms)}-{content[:8]}"
        manifest = manifest.model_copy(update={"snapshot_id": name})
        write_manifest(directory, manifest)
        publish_staged(directory, root / name)
    return manifest


def snapshot_manifest(root: Path, snapshot_id: str) -> SnapshotManifest:
    """The manifest alone; the files are not looked at. Raises Refused."""
    manifest = read_manifest(root / snapshot_id, SnapshotManifest)
    if manifest.snapshot_id != snapshot_id:
        raise Refused(
            "wrong_id",
            f"snapshot {snapshot_id}",
            f"the manifest of {manifest.snapshot_id}",
            "The directory was renamed: give it its own name back.",
        )
    return manifest


def read_snapshot(root: Path, snapshot_id: str) -> tuple[SnapshotManifest, SnapshotRows]:
    """Manifest and rows, vectors mapped. Every file's sha256 is checked before it is parsed.

    Raises Refused for anything that is missing, changed, unfinished or from the future.
    """
    manifest = snapshot_manifest(root, snapshot_id)
    verify_files(root / snapshot_id, manifest.files)
    rows = read_rows(root / snapshot_id)
    return manifest, rows


def list_snapshots(root: Path) -> list[str]:
    """Ids of the finished snapshots, by tier and hour."""
    if not root.is_dir():
        return []
    return sorted(p.name for p in root.iterdir() if not p.name.startswith(".") and (p / READY).is_file())


def newest_of_tiers(root: Path, version: str, streamed: Collection[str] = ()) -> dict[str, SnapshotManifest]:
    """Tier -> its newest snapshot with rows of this tower version only. The files are not looked at.

    Of the `streamed` tiers only what their cutters wrote: a batch snapshot of such a tier is a base for the
    cutter, and lacks what has come since.
    """
    mine = [
        one
        for one in readable_snapshots(root)
        if set(one.versions) == {version} and not (one.source == "batch" and one.tier in streamed)
    ]
    return {one.tier: one for one in sorted(mine, key=snapshot_age)}


class Reach(Protocol):
    """How far a snapshot, or a tier of a release, reaches."""

    @property
    def snapshot_id(self) -> str: ...

    @property
    def offsets(self) -> Offsets: ...

    @property
    def hour_ms(self) -> int: ...


def falls_behind(mine: Reach, served: Reach, policy: TierPolicy) -> str:
    """Why `mine`, of another tower, would take something back of what is served; empty when it does not.

    A batch snapshot says by its offsets which states it holds. Of a realtime tier offsets say nothing,
    because a cutter that takes a tower up reads the topic again, and neither does the newest row, because
    the candidate's rows come a batch after the serving tower's. But its cutter cuts all towers at once, those
    that are not complete left out: a cut of the same hour is as fresh.
    """
    if policy == "realtime":
        return f"{mine.snapshot_id} is older than what is served" if mine.hour_ms < served.hour_ms else ""
    for topic, ends in served.offsets.items():
        covered = mine.offsets.get(topic)
        if covered is not None and any(covered.get(number, 0) < end for number, end in ends.items()):
            return f"{mine.snapshot_id} covers less of {topic} than what is served"
    return ""


def readable_snapshots(root: Path) -> list[SnapshotManifest]:
    """Of the finished ones those whose manifest is whole: a damaged one is somebody's evidence, not ours."""
    manifests: list[SnapshotManifest] = []
    for name in list_snapshots(root):
        with suppress(Refused):
            manifests.append(snapshot_manifest(root, name))
    return manifests


def snapshot_age(manifest: SnapshotManifest) -> tuple[int, int, bool, int, str]:
    """Sorts oldest first. Of one hour and one newest event a cut from the stream is the newer: it covers
    what the batch job embedded and what came since.
    """
    covered = sum(sum(partitions.values()) for partitions in manifest.offsets.values())
    stream = manifest.source == "stream"
    return manifest.hour_ms, manifest.newest_ingest_ms, stream, covered, manifest.snapshot_id


def _coherent(rows: SnapshotRows) -> SnapshotRows:
    lengths = {len(rows.attributes), len(rows.vectors), len(rows.version_code), len(rows.titles)}
    if len(lengths) != 1 or rows.vectors.ndim != 2 or rows.attributes.dtype != ATTRIBUTES:
        raise Refused(
            "row_count",
            "attributes, vectors [N, D], version codes and titles of equal length",
            f"lengths {sorted(lengths)}, vectors {rows.vectors.shape}, {rows.attributes.dtype.name}",
            "The cutter mixed up its columns.",
        )
    if rows.titles.null_count:
        fix = "A Pin without a title has the empty one."
        raise Refused("null_title", "a title for every row", f"{rows.titles.null_count} without", fix)
    if len(rows) and int(rows.version_code.max()) >= len(rows.versions):
        raise Refused(
            "unknown_version",
            f"version codes below {len(rows.versions)}",
            str(int(rows.version_code.max())),
            "Every code is an index into `versions`.",
        )
    return rows


def _sorted(rows: SnapshotRows) -> SnapshotRows:
    """By (version, Pin id), with only the versions that occur, so equal rows are equal files."""
    present = sorted(rows.histogram())
    recode = np.zeros(max(len(rows.versions), 1), np.uint8)
    for code, version in enumerate(rows.versions):
        recode[code] = present.index(version) if version in present else 0
    rows = replace(rows, versions=present, version_code=recode[rows.version_code])
    return rows.take(np.lexsort((rows.attributes["pin_id"], rows.version_code)))
