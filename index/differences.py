"""What is different between two releases: towers, tiers, Pins, attributes, and what was checked."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.manifests import ReleaseManifest

from .contents import read_release_rows
from .row_files import SnapshotRows

Ints = npt.NDArray[np.int64]
Json = dict[str, object]

_COMPARED = (
    "advertiser_id",
    "price_micros",
    "bid_micros",
    "daily_budget_micros",
    "starts_at_ms",
    "ends_at_ms",
    "target_ages",
    "status",
)
"""What a Pin is like, apart from its title; the other fields say where its row came from."""


@dataclass(frozen=True)
class PinDifferences:
    """Pins counted. `attributes_changed`: field -> Pins, of those in both; so is `reembedded`."""

    added: int
    removed: int
    kept: int
    reembedded: int
    other_version: int
    changed: int
    attributes_changed: dict[str, int]


@dataclass(frozen=True)
class ReleaseDifferences:
    """What the second release has other than the first: name -> (first, second) of whatever is not equal."""

    first: str
    second: str
    manifest: dict[str, tuple[object, object]]
    tiers: dict[str, Json]
    pins: PinDifferences
    checks: dict[str, tuple[str | None, str | None]]

    def as_json(self) -> Json:
        """Plain values."""
        pins = {field.name: getattr(self.pins, field.name) for field in fields(self.pins)}
        return {
            "first": self.first,
            "second": self.second,
            "manifest": self.manifest,
            "tiers": self.tiers,
            "pins": pins,
            "checks": self.checks,
        }


def differences(first: Path, second: Path) -> ReleaseDifferences:
    """Compare two release directories; both are proved first, mixed versions or not. Raises Refused."""
    one, one_rows = read_release_rows(first, "tolerate")
    two, two_rows = read_release_rows(second, "tolerate")
    return ReleaseDifferences(
        first=one.release_id,
        second=two.release_id,
        manifest=_manifest_differences(one, two),
        tiers=_tier_differences(one, two),
        pins=pin_differences(one_rows, two_rows),
        checks=_check_differences(one, two),
    )


def _manifest_differences(one: ReleaseManifest, two: ReleaseManifest) -> dict[str, tuple[object, object]]:
    names = (
        "tower_version",
        "version_policy",
        "registry_hash",
        "calibration",
        "rankers",
        "newest_event_ms",
        "newest_ingest_ms",
    )
    pairs = {name: (_plain(getattr(one, name)), _plain(getattr(two, name))) for name in names}
    index = ("kind", "rows", "dimension", "parameters")
    pairs |= {f"index.{name}": (getattr(one.index, name), getattr(two.index, name)) for name in index}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    return dump() if dump else value


def _tier_differences(one: ReleaseManifest, two: ReleaseManifest) -> dict[str, Json]:
    """Every tier of either: its snapshots, rows before and after, and by how many hours it moved on."""
    found: dict[str, Json] = {}
    for name in sorted({*one.tiers, *two.tiers}):
        before, after = one.tiers.get(name), two.tiers.get(name)
        hours = (after.hour_ms - before.hour_ms) / 3_600_000 if before and after else None
        found[name] = {
            "snapshots": (before and before.snapshot_id, after and after.snapshot_id),
            "rows": (before.rows if before else 0, after.rows if after else 0),
            "rows_delta": (after.rows if after else 0) - (before.rows if before else 0),
            "hours_moved": hours,
        }
    return found


def _check_differences(
    one: ReleaseManifest, two: ReleaseManifest
) -> dict[str, tuple[str | None, str | None]]:
    before = {check.name: check.detail for check in one.checks}
    after = {check.name: check.detail for check in two.checks}
    names = [*before, *(name for name in after if name not in before)]
    return {
        name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    }


def pin_differences(one: SnapshotRows, two: SnapshotRows) -> PinDifferences:
    """Compare rows Pin by Pin, whatever order either is in. A Pin stands in each at most once."""
    _, in_one, in_two = np.intersect1d(
        one.attributes["pin_id"], two.attributes["pin_id"], assume_unique=True, return_indices=True
    )
    before, after = one.attributes[in_one], two.attributes[in_two]
    moved = {name: before[name] != after[name] for name in _COMPARED}
    titles = pc.not_equal(one.titles.take(pa.array(in_one)), two.titles.take(pa.array(in_two)))
    moved["title"] = titles.to_numpy(zero_copy_only=False).astype(np.bool_)
    changed = np.logical_or.reduce(list(moved.values()))
    return PinDifferences(
        added=len(two) - len(in_two),
        removed=len(one) - len(in_one),
        kept=len(in_one),
        reembedded=_reembedded(one, two, in_one, in_two),
        other_version=_other_version(one, two, in_one, in_two),
        changed=int(changed.sum()),
        attributes_changed={name: int(rows.sum()) for name, rows in moved.items() if rows.any()},
    )


def _reembedded(one: SnapshotRows, two: SnapshotRows, in_one: Ints, in_two: Ints) -> int:
    """Pins in both whose vectors are not the same bits."""
    if one.vectors.shape[1] != two.vectors.shape[1]:
        return len(in_one)
    bits = np.uint16
    return int((one.vectors[in_one].view(bits) != two.vectors[in_two].view(bits)).any(axis=1).sum())


def _other_version(one: SnapshotRows, two: SnapshotRows, in_one: Ints, in_two: Ints) -> int:
    """Pins in both whose embeddings are of another tower version."""
    if not len(in_one):
        return 0
    before = np.array(one.versions)[one.version_code[in_one]]
    after = np.array(two.versions)[two.version_code[in_two]]
    return int((before != after).sum())
