"""From snapshots to a release: gates first, then the index, then one complete, unpublished directory."""

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.artefacts import (
    file_entry,
    manifest_bytes,
    naming,
    publish_staged,
    staged,
    verify_files,
    write_manifest,
)
from schemas.errors import Refused
from schemas.manifests import CheckResult, FileEntry, IndexSpec, ReleaseManifest, TowerManifest

from . import checks
from .breakdown import Breakdown
from .build_policy import BuildPolicy, BuiltKind, Kind
from .canaries import (
    CANARIES,
    Answered,
    Canaries,
    ask,
    check_canaries,
    check_queries,
    read_canaries,
    shared_answers,
    write_canaries,
)
from .contents import FILES, release_manifest
from .faiss_index import threads
from .gates import Candidate, pass_gates
from .index_writing import FLAT_UP_TO_ROWS, WrittenIndex, kind_for, least_effort, lists_for, write_index
from .release_contract import Releases
from .row_files import ATTRIBUTES_FILE, VECTORS, write_attributes, write_vectors
from .snapshots import hour_name
from .tier_parts import Joined, check_tiers, join, read_cuts

__all__ = [
    "FLAT_UP_TO_ROWS",
    "BuildPolicy",
    "BuildReport",
    "BuiltKind",
    "Canaries",
    "Kind",
    "build_measured",
    "build_release",
    "kind_for",
    "least_effort",
    "lists_for",
]


@dataclass(frozen=True)
class BuildReport:
    """What was built, and how many seconds each phase took; `faiss` is what bare FAISS would take too."""

    manifest: ReleaseManifest
    seconds: dict[str, float]


def build_release(
    releases: Releases,
    snapshots: Path,
    snapshot_ids: str | Sequence[str],
    *,
    tower: TowerManifest,
    registry_hash: str,
    kind: Kind = "auto",
    policy: BuildPolicy | None = None,
) -> ReleaseManifest:
    """Build snapshots, one a tier, into a complete release that is not live (`Releases.publish`).

    Building the same again returns the release that is there. Raises Refused when a check fails; then
    nothing is left behind.
    """
    ids = [snapshot_ids] if isinstance(snapshot_ids, str) else snapshot_ids
    return build_measured(
        releases, snapshots, ids, tower=tower, registry_hash=registry_hash, kind=kind, policy=policy
    ).manifest


def build_measured(
    releases: Releases,
    snapshots: Path,
    snapshot_ids: Sequence[str],
    *,
    tower: TowerManifest,
    registry_hash: str,
    kind: Kind = "auto",
    policy: BuildPolicy | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> BuildReport:
    """Like `build_release`, and say where the time went. `clock` gives seconds."""
    timed, policy = Breakdown(clock), policy or BuildPolicy()
    live = releases.comparable_live()
    cuts = read_cuts(snapshots, snapshot_ids, timed)
    with timed.phase("checks"):
        for cut in cuts:
            checks.row_count(len(cut.rows), cut.manifest.rows, cut.manifest.snapshot_id)
        checks.not_empty(sum(len(cut.rows) for cut in cuts))
        check_tiers(cuts, policy.tiers, policy.version_policy)
    with timed.phase("join"):
        joined = join(snapshots, cuts, policy.tiers, policy.version_policy)
    with timed.phase("checks"):
        passed = _checks(joined, live, tower, policy)
        passed.append(checks.registry(tower.registry_hash, registry_hash))
        if policy.canaries is not None:
            check_queries(policy.canaries.queries, tower.dimension)
    with staged(releases.root) as directory, threads(policy.threads):
        build = _Build(directory, joined, tower, policy, timed)
        manifest = build.write(kind, registry_hash, passed, _live_answers(releases, live))
        with timed.phase("publish"):
            manifest = _publish(releases, directory, manifest)
    return BuildReport(manifest, timed.seconds)


def _checks(
    joined: Joined, live: ReleaseManifest | None, tower: TowerManifest, policy: BuildPolicy
) -> list[CheckResult]:
    """Everything that can be said without the index, cheapest first."""
    rows, newest = joined.rows, joined.cuts[0].manifest
    passed = [
        checks.complete(joined.parts),
        checks.not_empty(len(rows)),
        checks.one_tower_version(joined.histograms(), tower.tower_version)
        if policy.version_policy == "enforce"
        else checks.counted_versions({name: part.versions for name, part in joined.parts.items()}),
        checks.dimension(rows.vectors, tower.dimension),
        *_inputs(joined, tower),
        checks.not_stale(newest.hour_ms, live),
        checks.enough_rows(len(rows), live, policy.min_rows_ratio),
        checks.unique_pins(rows.attributes["pin_id"]),
        checks.finite(rows.vectors),
    ]
    checks.tiers_fit(joined.parts, live, policy.min_rows_ratio)
    return [*passed, checks.unit_length(rows.vectors)] if tower.normalised else passed


def _inputs(joined: Joined, tower: TowerManifest) -> list[CheckResult]:
    """Every snapshot was made for the tower's inputs; said once."""
    return [checks.pin_inputs(cut.manifest, tower) for cut in joined.cuts][-1:]


@dataclass(frozen=True)
class _Build:
    """One build into a staged directory."""

    directory: Path
    joined: Joined
    tower: TowerManifest
    policy: BuildPolicy
    timed: Breakdown

    def write(
        self, kind: Kind, registry_hash: str, passed: list[CheckResult], live: "_Live"
    ) -> ReleaseManifest:
        """Rows, index and canaries; the manifest is returned, not written: it has no name yet."""
        rows, newest = self.joined.rows, self.joined.cuts[0].manifest
        entries = self._write_rows()
        built: BuiltKind = kind_for(len(rows)) if kind == "auto" else kind
        spec = IndexSpec(
            kind=built,
            rows=len(rows),
            dimension=rows.vectors.shape[1],
            tower_version=self.tower.tower_version,
        )
        index = write_index(self.directory, rows.vectors, spec, self.policy, self.timed)
        passed = [*passed, index.recall, *self._ask(index, live)]
        with self.timed.phase("hash"):
            files = [entries.get(name) or file_entry(self.directory / name) for name in self._names(built)]
        return ReleaseManifest(
            release_id="unnamed",
            tower_version=self.tower.tower_version,
            index=index.spec,
            calibration=self.tower.calibration,
            registry_hash=registry_hash,
            snapshot_id=self.joined.snapshot_id,
            tier=newest.tier,
            hour_ms=newest.hour_ms,
            tiers=self.joined.parts,
            version_policy=self.policy.version_policy,
            offsets=self.joined.offsets,
            newest_event_ms=max(cut.manifest.newest_event_ms for cut in self.joined.cuts),
            newest_ingest_ms=max(cut.manifest.newest_ingest_ms for cut in self.joined.cuts),
            checks=passed,
            files=files,
        )

    def _names(self, kind: BuiltKind) -> list[str]:
        return [*FILES[kind], *([CANARIES] if self.policy.canaries else [])]

    def _write_rows(self) -> dict[str, FileEntry]:
        """One snapshot's files are shared, with their checksums, just proved; others are written."""
        rows, unchanged = self.joined.rows, self.joined.unchanged
        with self.timed.phase("write_rows"):
            if unchanged is None:
                write_vectors(self.directory, rows.vectors)
                write_attributes(self.directory, rows)
                return {}
            return {
                entry.name: entry
                for entry in unchanged.files
                if entry.name in (VECTORS, ATTRIBUTES_FILE)
                and _link_or_copy(self.joined.root / unchanged.snapshot_id / entry.name, self.directory)
            }

    def _ask(self, index: WrittenIndex, live: "_Live") -> list[CheckResult]:
        rows, canaries, results = self.joined.rows, self.policy.canaries, []
        if canaries is not None:
            with self.timed.phase("canaries"):
                pins = ask(index.index, rows, canaries.queries, canaries.k)
                answered = Answered(canaries.queries, pins)
                shared = shared_answers(answered, live.answers)
                results.append(check_canaries(canaries, index.canary_overlap, shared))
                write_canaries(self.directory / CANARIES, answered)
        with self.timed.phase("gates"):
            candidate = Candidate(self.tower, rows, index.index, live.manifest)
            return results + pass_gates(self.policy.gates, candidate)


@dataclass(frozen=True)
class _Live:
    """What the candidate is compared with."""

    manifest: ReleaseManifest | None
    answers: Answered | None


def _live_answers(releases: Releases, live: ReleaseManifest | None) -> _Live:
    """The live release's answers to the canary queries, if it has any that are whole."""
    kept = [entry for entry in live.files if entry.name == CANARIES] if live is not None else []
    if live is None or not kept:
        return _Live(live, None)
    try:
        directory = releases.fetch(live.release_id)
        verify_files(directory, kept)
        return _Live(live, read_canaries(directory))
    except Refused:
        return _Live(live, None)  # a damaged one may be replaced by any


def _link_or_copy(source: Path, directory: Path) -> bool:
    """Artefacts never change, so a release shares the snapshot's bytes where the file system can.

    True when it does. Raises Refused when the snapshot was deleted meanwhile.
    """
    target = directory / source.name
    try:
        target.hardlink_to(source)
    except FileNotFoundError as error:
        fix = "Newer snapshots came and it was cleared away: build from those."
        raise Refused("missing_file", str(source.name), f"{source.parent.name} is gone", fix) from error
    except OSError:
        with naming(target):
            shutil.copyfile(source, target)
        return False
    return True


def _publish(releases: Releases, directory: Path, manifest: ReleaseManifest) -> ReleaseManifest:
    """Name the release by its content and put it in its place."""
    # The checks mention what was live at the time, and the canaries' last bits are the processor's: the
    # same release built later, or elsewhere, is still the same.
    files = [entry for entry in manifest.files if entry.name != CANARIES]
    content = manifest_bytes(manifest.model_copy(update={"checks": [], "files": files}))
    digest = hashlib.sha256(content).hexdigest()
    name = f"{hour_name(manifest.hour_ms)}-{manifest.tower_version[:8]}-{digest[:8]}"
    final = releases.directory(name)
    manifest = manifest.model_copy(update={"release_id": name})
    write_manifest(directory, manifest)
    try:
        publish_staged(directory, final)
    except Refused as refused:
        if refused.code != "already_exists":
            raise
        manifest = release_manifest(final)
        verify_files(final, manifest.files)
    return manifest
