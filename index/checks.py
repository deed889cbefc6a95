"""The checks that a release passes at its build, and again wherever its files may have changed.

Each returns what it found, or raises Refused with the code that names the fault.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from schemas.errors import Refused
from schemas.manifests import CheckResult, ReleaseManifest, SnapshotManifest, TierPart, TowerManifest
from schemas.tiers import VersionPolicy

from .row_files import Matrix
from .snapshots import hour_name

_CHUNK_ROWS = 65_536
_LENGTH_TOLERANCE = 0.01
"""fp16 rounding moves the length of a unit vector by 2^-11 at most; this leaves room, not more."""

_FEWER = "Is part of the snapshot missing? If so many Pins are really gone, lower SKEWLESS_MIN_ROWS_RATIO."


def not_empty(rows: int) -> CheckResult:
    """There is something to serve. Code `empty_release`."""
    if rows == 0:
        raise Refused(
            "empty_release",
            "at least one Pin",
            "none",
            "Is the worker embedding with the tower that this release is for?",
        )
    return CheckResult(name="not_empty", ok=True, detail=f"{rows} rows")


Histograms = Mapping[str, Mapping[str, int]]
"""Tier -> rows per tower version, counted from the rows."""


def one_tower_version(histograms: Histograms, tower_version: str) -> CheckResult:
    """The homogeneity gate: all rows of all tiers are of it. Codes `mixed_versions`, `wrong_tower`."""
    histogram = {version for counts in histograms.values() for version in counts}
    if list(histogram) == [tower_version]:
        return CheckResult(name="one_tower_version", ok=True, detail=f"all rows {tower_version}")
    came = described(histograms)
    if len(histogram) > 1:
        fix = "Cut a snapshot of one version (`SnapshotRows.of_version`); re-embed what is left of the other."
        raise Refused("mixed_versions", f"rows of {tower_version} only", came, fix)
    fix = "Build with the tower that made these rows, or cut a snapshot of this tower's rows."
    raise Refused("wrong_tower", f"rows of {tower_version}", came, fix)


def described(histograms: Histograms) -> str:
    """A histogram for people; the tiers are named where there are several."""
    lines = {
        tier: ", ".join(f"{count} of {version}" for version, count in sorted(counts.items()))
        for tier, counts in histograms.items()
    }
    if len(lines) == 1:
        return next(iter(lines.values()))
    return "; ".join(f"{tier}: {line or 'no rows'}" for tier, line in sorted(lines.items()))


def counted_versions(histograms: Histograms) -> CheckResult:
    """What a `tolerate` release mixes, kept where everybody can read it. Refuses nothing."""
    return CheckResult(name="version_mix", ok=True, detail=described(histograms))


def policy_allows(manifest: ReleaseManifest, asked: VersionPolicy) -> None:
    """A release of mixed versions is for those who ask for one. Code `mixed_versions`."""
    if manifest.version_policy == "tolerate" and asked == "enforce":
        counted = {name: part.versions for name, part in manifest.tiers.items()}
        fix = (
            "It was built with --tolerate, to measure what mixing does. Build one without it; to serve this "
            "one all the same, set SKEWLESS_VERSION_POLICY=tolerate."
        )
        raise Refused("mixed_versions", f"rows of {manifest.tower_version} only", described(counted), fix)


def row_count(found: int, promised: int, where: str) -> CheckResult:
    """As many rows as the manifest says. Code `row_count`."""
    if found != promised:
        fix = "Rows were lost or added after the manifest was written: write it again."
        raise Refused("row_count", f"{promised} rows in {where}", str(found), fix)
    return CheckResult(name="row_count", ok=True, detail=f"{found} rows")


def dimension(vectors: Matrix, expected: int) -> CheckResult:
    """Vectors of the tower's dimension. Code `wrong_dimension`."""
    if vectors.shape[1] != expected:
        fix = "The snapshot was cut from another tower's embeddings."
        raise Refused("wrong_dimension", f"{expected} dimensions", str(vectors.shape[1]), fix)
    return CheckResult(name="dimension", ok=True, detail=str(expected))


def finite(vectors: Matrix) -> CheckResult:
    """No NaN, no infinity. Code `not_finite`."""
    for start, chunk in _chunks(vectors):
        # All exponent bits set: what NaN and infinity have in common. Far quicker than isfinite on fp16.
        bits = np.ascontiguousarray(chunk).view(np.uint16)
        bad = ((bits & 0x7C00) == 0x7C00).any(axis=1)
        if bad.any():
            row = start + int(np.argmax(bad))
            fix = "The tower gave no number for this Pin: see its inputs, then embed it again."
            raise Refused("not_finite", "finite vectors", f"NaN or infinity in row {row}", fix)
    return CheckResult(name="finite", ok=True, detail=f"{vectors.size} numbers")


def unit_length(vectors: Matrix) -> CheckResult:
    """Pin vectors of length 1, as the tower promises. Code `not_unit_length`."""
    for start, chunk in _chunks(vectors):
        wide = chunk.astype(np.float32)
        off = np.abs(np.sqrt(np.einsum("nd,nd->n", wide, wide)) - 1)
        if off.max() > _LENGTH_TOLERANCE:
            row = start + int(np.argmax(off))
            fix = "The tower says that its vectors are normalised: were these made by it?"
            raise Refused(
                "not_unit_length", "vectors of length 1", f"off by {off.max():.3g} in row {row}", fix
            )
    return CheckResult(name="unit_length", ok=True, detail=f"within {_LENGTH_TOLERANCE}")


def unique_pins(pin_ids: npt.NDArray[np.int64]) -> CheckResult:
    """No Pin twice. Code `duplicate_pins`."""
    ids = np.sort(pin_ids)
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        came = f"{len(twice)} rows too many, Pin {ids[twice[0]]} among them"
        fix = "The cut merged two revisions of a Pin: only the newest row of a Pin belongs into it."
        raise Refused("duplicate_pins", "each Pin once", came, fix)
    return CheckResult(name="unique_pins", ok=True, detail=f"{len(ids)} Pins")


def registry(came: str, expected: str) -> CheckResult:
    """Made with this feature registry. Code `registry_mismatch`."""
    if came != expected:
        fix = "Features were declared anew since: train a tower with this registry, or run the older code."
        raise Refused("registry_mismatch", f"feature registry {expected}", came, fix)
    return CheckResult(name="registry", ok=True, detail=came)


def pin_inputs(snapshot: SnapshotManifest, tower: TowerManifest) -> CheckResult:
    """The bits of `input_mask` mean the tower's inputs. Code `other_inputs`."""
    if snapshot.pin_inputs != tower.pin_inputs:
        fix = "The cutter was started for another tower."
        raise Refused("other_inputs", f"inputs {tower.pin_inputs}", str(snapshot.pin_inputs), fix)
    return CheckResult(name="pin_inputs", ok=True, detail=f"{len(tower.pin_inputs)} inputs")


def complete(tiers: Mapping[str, TierPart]) -> CheckResult:
    """Every tier is there, with all that its snapshot promised. What is missing was refused before."""
    said = [
        f"{name}: {part.rows} rows of {part.snapshot_id}, {_covered(part)}" for name, part in tiers.items()
    ]
    return CheckResult(name="complete", ok=True, detail="; ".join(said))


def _covered(part: TierPart) -> str:
    """Up to where a tier's topics were read."""
    topics = [f"{sum(upto.values())} messages of {topic}" for topic, upto in part.offsets.items()]
    return "covering " + (" and ".join(topics) or "no topic")


def tiers_fit(tiers: Mapping[str, TierPart], live: ReleaseManifest | None, min_rows_ratio: float) -> None:
    """No tier goes back in time or shrinks, whatever the others do. Codes `stale_release`, `too_few_rows`.

    A tier that is not in the live release has nothing to be measured by; and where tiers came or went,
    Pins moved between them, so that only their number in all says anything.
    """
    known = live.tiers if live is not None else {}
    for name, part in tiers.items():
        before = known.get(name)
        if before is None:
            continue
        if part.hour_ms < before.hour_ms:
            expected = f"tier {name} of hour {hour_name(before.hour_ms)} or later"
            fix = "Take the newest snapshot of each tier; to go back on purpose, roll back."
            raise Refused("stale_release", expected, f"hour {hour_name(part.hour_ms)}", fix)
        if tiers.keys() == known.keys() and part.rows < min_rows_ratio * before.rows:
            expected = f"at least {min_rows_ratio:.0%} of the {before.rows} rows of tier {name}"
            raise Refused("too_few_rows", expected, f"{part.rows} rows", _FEWER)


def enough_rows(rows: int, live: ReleaseManifest | None, min_rows_ratio: float) -> CheckResult:
    """Not far smaller than what it replaces. Code `too_few_rows`."""
    if live is None:
        return CheckResult(name="enough_rows", ok=True, detail="nothing is live")
    if rows < min_rows_ratio * live.index.rows:
        expected = f"at least {min_rows_ratio:.0%} of the {live.index.rows} rows of {live.release_id}"
        raise Refused("too_few_rows", expected, f"{rows} rows", _FEWER)
    return CheckResult(name="enough_rows", ok=True, detail=f"{rows} rows, live {live.index.rows}")


def not_stale(hour_ms: int, live: ReleaseManifest | None) -> CheckResult:
    """Not older than what it replaces. Code `stale_release`; a rollback goes back on purpose and skips it."""
    if live is not None and hour_ms < live.hour_ms:
        fix = "Build from a newer snapshot; to go back on purpose, roll back."
        raise Refused(
            "stale_release", f"hour {hour_name(live.hour_ms)} or later", f"hour {hour_name(hour_ms)}", fix
        )
    return CheckResult(name="not_stale", ok=True, detail=hour_name(hour_ms))


def recall(measured: float, minimum: float, k: int, queries: int) -> CheckResult:
    """Finds nearly what an exact scan finds. Code `low_recall`."""
    came = f"recall@{k} {measured:.4f} over {queries} of its own vectors as queries"
    if measured < minimum:
        fix = "Build it flat, or with more effort per query."
        raise Refused("low_recall", f"recall@{k} of {minimum} or more against an exact scan", came, fix)
    return CheckResult(name="recall", ok=True, detail=came)


def _chunks(vectors: Matrix) -> Iterator[tuple[int, Matrix]]:
    for start in range(0, len(vectors), _CHUNK_ROWS):
        yield start, vectors[start : start + _CHUNK_ROWS]
