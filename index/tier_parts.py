"""What a release is built from: one snapshot of every tier, read, checked against each other, and joined."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.tier_slices import in_tier
from schemas.artefacts import verify_files
from schemas.errors import Refused
from schemas.manifests import Offsets, SnapshotManifest, TierPart
from schemas.tiers import Tiers, VersionPolicy

from .breakdown import Breakdown
from .row_files import SnapshotRows, read_rows
from .snapshots import hour_name, snapshot_manifest
from .union import by_pin_id, newest_of_each_pin, stacked

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """One snapshot, read back."""

    manifest: SnapshotManifest
    rows: SnapshotRows

    def histogram(self) -> dict[str, int]:
        """Rows per tower version, counted from the rows."""
        return self.rows.histogram()


@dataclass(frozen=True)
class Joined:
    """The rows of a release, by Pin id, and where they are from. Freshest tier first, as in all of it.

    `root` holds the snapshots; `unchanged` is the one that these rows are, byte for byte, or None.
    """

    root: Path
    cuts: list[Cut]
    rows: SnapshotRows
    parts: dict[str, TierPart]
    unchanged: SnapshotManifest | None

    @property
    def snapshot_id(self) -> str:
        """Ids of the snapshots, joined by `+`."""
        return "+".join(part.snapshot_id for part in self.parts.values())

    @property
    def offsets(self) -> Offsets:
        """What all of it covers: of each partition the least."""
        return least([part.offsets for part in self.parts.values()])

    def histograms(self) -> dict[str, dict[str, int]]:
        """Tier -> rows per tower version."""
        found: dict[str, dict[str, int]] = {}
        for cut in self.cuts:
            counts = found.setdefault(cut.manifest.tier, {})
            for version, count in cut.histogram().items():
                counts[version] = counts.get(version, 0) + count
        return found


def read_cuts(root: Path, snapshot_ids: Sequence[str], timed: Breakdown) -> list[Cut]:
    """Read these snapshots, sha256 of every file first; the freshest tier's first. Raises Refused."""
    cuts: list[Cut] = []
    for snapshot_id in dict.fromkeys(snapshot_ids):
        manifest = snapshot_manifest(root, snapshot_id)
        with timed.phase("verify_snapshots"):
            verify_files(root / snapshot_id, manifest.files)
        with timed.phase("read_rows"):
            cuts.append(Cut(manifest, read_rows(root / snapshot_id)))
    if not cuts:
        raise Refused("no_snapshot", "at least one snapshot", "none", "Name one for each tier.")
    return sorted(cuts, key=lambda cut: _freshness(cut.manifest), reverse=True)


def check_tiers(cuts: Sequence[Cut], tiers: Tiers | None, policy: VersionPolicy) -> None:
    """One snapshot of every declared tier, each Pin in its own. None: nothing is declared.

    Raises Refused: `unknown_tier`, `two_snapshots_of_a_tier`, `missing_tier`, `empty_tier`,
    `pin_in_two_tiers` or `wrong_tier`.
    """
    came = [cut.manifest.tier for cut in cuts]
    if policy == "enforce" and len(set(came)) != len(came):
        fix = "Take the newest of each tier; `--tolerate` is there to join several on purpose."
        raise Refused("two_snapshots_of_a_tier", "one snapshot a tier", ", ".join(sorted(came)), fix)
    if tiers is not None:
        _all_there({tiers.named(name).name for name in came}, tiers)
    if len(cuts) > 1 and (empty := [cut.manifest for cut in cuts if not len(cut.rows)]):
        expected = f"at least one Pin of tier {empty[0].tier}"
        fix = "Is that tier's worker, or its batch job, embedding? Give a tier without Pins no buckets."
        raise Refused("empty_tier", expected, f"none in {empty[0].snapshot_id}", fix)
    _each_pin_in_one_tier(cuts)
    for cut in cuts if tiers is not None else ():
        _in_its_slice(cut, tiers)


def _all_there(came: set[str], tiers: Tiers) -> None:
    declared = [tier.name for tier in tiers.tiers]
    missing = [name for name in declared if name not in came]
    if missing:
        expected = f"a snapshot of every tier: {', '.join(declared)}"
        fix = f"Cut or embed tier {missing[0]} with this tower version first."
        raise Refused("missing_tier", expected, f"none of tier {', '.join(missing)}", fix)


def _each_pin_in_one_tier(cuts: Sequence[Cut]) -> None:
    for number, one in enumerate(cuts):
        for other in cuts[number + 1 :]:
            names = sorted((one.manifest.tier, other.manifest.tier))
            if names[0] == names[1]:
                continue
            # Pins of a snapshot are in order already, or nearly: sorting costs next to nothing.
            mine, theirs = (np.sort(cut.rows.attributes["pin_id"]) for cut in (one, other))
            places = np.searchsorted(theirs, mine)
            twice = mine[theirs[np.minimum(places, len(theirs) - 1)] == mine] if len(theirs) else mine[:0]
            if len(twice):
                came = f"{len(twice)} in both {names[0]} and {names[1]}, Pin {twice[0]} among them"
                fix = "Tiers were changed between the two: cut both again with the same tiers.json."
                raise Refused("pin_in_two_tiers", "each Pin in one tier", came, fix)


def _in_its_slice(cut: Cut, tiers: Tiers | None) -> None:
    assert tiers is not None
    tier = tiers.named(cut.manifest.tier)
    pins = cut.rows.attributes["pin_id"]
    strangers = np.flatnonzero(~in_tier(pins, tier))
    if len(strangers):
        expected = f"Pins of buckets {tier.first_bucket} to {tier.end_bucket - 1} in tier {tier.name}"
        came = f"{len(strangers)} others in {cut.manifest.snapshot_id}, Pin {pins[strangers[0]]} among them"
        raise Refused("wrong_tier", expected, came, "Cut it again with the tiers.json of today.")


def join(root: Path, cuts: Sequence[Cut], tiers: Tiers | None, policy: VersionPolicy) -> Joined:
    """The rows of all snapshots, by Pin id. `check_tiers` has passed; Pins may still be there twice."""
    parts = [cut.rows for cut in cuts]
    if policy == "tolerate":
        rows, source = stacked(parts)
        # Of equal rows the one of the latest snapshot: sources count from the oldest.
        rows, source = newest_of_each_pin(rows, len(cuts) - 1 - source)
        source = len(cuts) - 1 - source
        unchanged = None
    elif len(cuts) == 1:
        (rows, source), unchanged = stacked(parts), cuts[0].manifest
    else:
        (rows, source), unchanged = by_pin_id(parts), None
    return Joined(root, list(cuts), rows, _parts(cuts, rows, source, tiers), unchanged)


def _parts(cuts: Sequence[Cut], rows: SnapshotRows, source: Ints, tiers: Tiers | None) -> dict[str, TierPart]:
    parts: dict[str, TierPart] = {}
    for name in dict.fromkeys(cut.manifest.tier for cut in cuts):
        numbers = [number for number, cut in enumerate(cuts) if cut.manifest.tier == name]
        manifests = [cuts[number].manifest for number in numbers]
        counts = np.bincount(rows.version_code[np.isin(source, numbers)], minlength=len(rows.versions))
        batch = manifests[0].source == "batch"
        parts[name] = TierPart(
            policy=tiers.named(name).policy if tiers else ("batch" if batch else "realtime"),
            snapshot_id="+".join(one.snapshot_id for one in manifests),
            hour_ms=max(one.hour_ms for one in manifests),
            rows=int(counts.sum()),
            versions={one: int(n) for one, n in zip(rows.versions, counts, strict=True) if n},
            offsets=least([one.offsets for one in manifests]),
            newest_event_ms=max(one.newest_event_ms for one in manifests),
            newest_ingest_ms=max(one.newest_ingest_ms for one in manifests),
        )
    return parts


def least(all_offsets: Sequence[Offsets]) -> Offsets:
    """Of each partition of each topic the least: what everything that names the topic covers."""
    merged: Offsets = {}
    for offsets in all_offsets:
        for topic, partitions in offsets.items():
            known = merged.setdefault(topic, {})
            for number, offset in partitions.items():
                known[number] = min(offset, known.get(number, offset))
    return merged


def _freshness(manifest: SnapshotManifest) -> tuple[int, int, str]:
    return manifest.hour_ms, manifest.newest_ingest_ms, manifest.snapshot_id


def behind(parts: dict[str, TierPart]) -> dict[str, str]:
    """Tier -> hour of its snapshot, and how far it is behind the freshest tier, which comes first."""
    freshest = max((part.hour_ms for part in parts.values()), default=0)
    return {
        name: hour_name(part.hour_ms)
        + (f" ({(freshest - part.hour_ms) / 3_600_000:.0f} h behind)" if part.hour_ms < freshest else "")
        for name, part in sorted(parts.items(), key=lambda one: -one[1].hour_ms)
    }
