"""From snapshots to a live release: build, check, publish. What the cutter and the batch job call."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.definitions import registry
from index.builder import BuildPolicy, BuildReport, build_measured
from index.canaries import CANARIES, read_canaries
from index.gates import Gate
from index.loading import load_index
from index.release_contract import Moves
from index.snapshots import falls_behind, newest_of_tiers, snapshot_manifest
from models.live_towers import LockedLiveTowers, locked_live_towers, read_live_towers
from models.predictor import QueryTower
from schemas.errors import Refused, RetryableError
from schemas.logs import ReleasePublished
from schemas.manifests import CheckResult, ReleaseManifest, SnapshotManifest
from schemas.tiers import Tiers, VersionPolicy

from .canaries import canaries
from .retention import clean_up
from .rolling_back import follow_rollback
from .rollover_record import close_rollover, read_rollover
from .settings import Settings
from .store_connection import release_store

log = logging.getLogger(__name__)

ACTOR = "skewless snapshots"
"""Who the audit trail says it was, unless told otherwise."""

_ATTEMPTS = 5
_LOST_THE_RACE = {"current_moved", "stale_release", "missing_file", "not_ready"}
"""Somebody else published, or cleared away, meanwhile: look again at what is newest."""


@dataclass(frozen=True)
class BuildWish:
    """What to build with. `tower`: the query tower; None: the only version there is, or the serving one."""

    version_policy: VersionPolicy = "enforce"
    tower: str | None = None
    gates: Sequence[Gate] = ()


def declared_tiers(settings: Settings) -> Tiers | None:
    """What `tiers.json` declares; None where there is none, and any one snapshot is the whole inventory."""
    return settings.tiers() if (settings.data_dir / "tiers.json").is_file() else None


def build_from_snapshot(settings: Settings, snapshot_id: str) -> ReleaseManifest:
    """Build a release of one snapshot that is not live yet. Raises Refused as `build_from_snapshots`."""
    return build_from_snapshots(settings, [snapshot_id]).manifest


def build_from_snapshots(
    settings: Settings, snapshot_ids: Sequence[str], wish: BuildWish | None = None
) -> BuildReport:
    """Build a release, one snapshot a tier, that is not live yet.

    Raises Refused when tower versions are mixed (unless `tolerate` was asked for), a tier is missing,
    and for everything else that does not fit.
    """
    wish = wish or BuildWish()
    version = wish.tower or _query_tower_of(settings, snapshot_ids)
    tower = QueryTower.load(settings.towers_dir, version, registry())
    return build_measured(
        release_store(settings),
        settings.snapshots_dir,
        snapshot_ids,
        tower=tower.manifest,
        registry_hash=registry().content_hash,
        kind=settings.index_kind,
        policy=BuildPolicy(
            threads=settings.threads,
            min_rows_ratio=settings.min_rows_ratio,
            tiers=declared_tiers(settings),
            version_policy=wish.version_policy,
            canaries=canaries(tower),
            gates=wish.gates,
        ),
    )


def _query_tower_of(settings: Settings, snapshot_ids: Sequence[str]) -> str:
    """The serving tower, if rows are of it, or the version that most rows are of.

    Any of them will do to look up a tower: that there is only one, the builder makes sure.
    """
    rows: dict[str, int] = {}
    for snapshot_id in snapshot_ids:
        for version, count in snapshot_manifest(settings.snapshots_dir, snapshot_id).versions.items():
            rows[version] = rows.get(version, 0) + count
    if not rows:
        names = ", ".join(snapshot_ids)
        raise Refused("empty", "a snapshot with rows", f"none in {names}", "Cut one when there are Pins.")
    serving = read_live_towers(settings.towers_dir)[:1]
    return serving[0] if serving and serving[0] in rows else max(rows, key=lambda version: rows[version])


def newest_snapshots(settings: Settings, version: str, tier: str) -> list[str]:
    """The newest snapshot of every declared tier of this tower version; `tier`'s where none is declared."""
    declared = declared_tiers(settings)
    streamed = [one.name for one in settings.tiers().tiers if one.policy == "realtime"]
    newest = newest_of_tiers(settings.snapshots_dir, version, streamed)
    names = [one.name for one in declared.tiers] if declared else [tier]
    return [newest[name].snapshot_id for name in names if name in newest]


def check_release(settings: Settings, release_id: str | None) -> list[CheckResult]:
    """Load a release (None: the live one) as a server would; returns its checks. Raises Refused."""
    store = release_store(settings)
    wanted = release_id or store.current()
    if wanted is None:
        raise Refused("no_release", "a live release", "none", "`skewless release publish ID` makes one live.")
    index = load_index(
        store, wanted, registry_hash=registry().content_hash, version_policy=settings.version_policy
    )
    tower = QueryTower.load(settings.towers_dir, index.tower_version, registry())
    results = list(index.manifest.checks)
    if any(entry.name == CANARIES for entry in index.manifest.files):
        results.append(_same_queries(tower, store.directory(wanted)))
    detail = f"{len(index)} rows and query tower {tower.version[:12]}, every checksum right"
    return [*results, CheckResult(name="loads", ok=True, detail=detail)]


def _same_queries(tower: QueryTower, directory: Path) -> CheckResult:
    """The query tower embeds the canaries as it did at the build; the index answered them while it loaded."""
    kept, now = read_canaries(directory).queries, canaries(tower).queries
    if kept.shape != now.shape or not np.allclose(kept, now, rtol=1e-3, atol=1e-3):
        fix = "The release was built with another query tower of this version: build it again."
        came = f"{now.shape} queries that differ" if kept.shape == now.shape else f"{now.shape} queries"
        raise Refused("canary_queries", "the query vectors of the build", came, fix)
    return CheckResult(name="canaries", ok=True, detail=f"{len(kept)} queries embedded and answered as built")


class Releaser:
    """Publishes a release for each snapshot that is newer than what is live; keeps the newest few.

    Any number of processes may have one: who loses a race takes the newest snapshots again.
    """

    def __init__(self, settings: Settings, gates: Sequence[Gate] = (), actor: str = ACTOR) -> None:
        self._settings, self._gates, self._actor = settings, gates, actor
        self._store = release_store(settings)
        self._cleaned = False

    def __call__(self, snapshot: SnapshotManifest) -> None:
        """Build, check, publish. A refused snapshot is logged; what is live stays.

        A candidate's may fail in any way: whoever calls goes on, it cuts the serving tower too.
        """
        if not self._cleaned:
            # What a process left that died here, of a full disk maybe, would be in the way of this one.
            self._clean_up(snapshot.tier)
        try:
            self._try(snapshot)
        except Exception:
            if not self._of_candidate(snapshot):
                raise
            log.exception("snapshot %s, of a candidate, was not released", snapshot.snapshot_id)
        finally:
            # Published or not: while releases are refused for days, snapshots go on being cut.
            self._clean_up(snapshot.tier)

    def _clean_up(self, tier: str) -> None:
        self._cleaned = True
        try:
            clean_up(self._settings, self._store, tier)
        except (Refused, RetryableError) as error:
            log.warning("old releases and snapshots stay until the next snapshot: %s", error)

    def _try(self, snapshot: SnapshotManifest) -> None:
        tried: list[str] = []
        for _ in range(_ATTEMPTS):
            ids: list[str] = []
            try:
                # Before the look at the snapshots: what goes live meanwhile may hold newer ones.
                seen = self._store.current()
                ids = self._snapshots_for(snapshot)
                self._release(ids, seen)
                return
            except RetryableError as error:
                log.warning(
                    "snapshot %s was not released, the next one will be: %s", snapshot.snapshot_id, error
                )
                return
            except Refused as refused:
                if refused.code == "missing_tier":
                    log.info("snapshot %s waits: %s", snapshot.snapshot_id, refused)
                    return
                if refused.code not in _LOST_THE_RACE or (refused.code != "current_moved" and ids == tried):
                    log.warning("snapshot %s was not released: %s", snapshot.snapshot_id, refused)
                    return
                tried = ids
        log.warning("snapshot %s was not released: others published all the time", snapshot.snapshot_id)

    def _of_candidate(self, snapshot: SnapshotManifest) -> bool:
        """Whether another tower than that of the snapshot's rows stands first in LIVE."""
        live = read_live_towers(self._settings.towers_dir)
        return bool(live) and live[0] not in snapshot.versions

    def _snapshots_for(self, snapshot: SnapshotManifest) -> list[str]:
        if len(snapshot.versions) != 1:
            return [snapshot.snapshot_id]  # the builder says what is wrong with it
        return newest_snapshots(self._settings, next(iter(snapshot.versions)), snapshot.tier) or [
            snapshot.snapshot_id
        ]

    def _release(self, snapshot_ids: Sequence[str], seen: str | None) -> None:
        manifest = build_from_snapshots(self._settings, snapshot_ids, BuildWish(gates=self._gates)).manifest
        # Whoever changes LIVE waits: a tower cannot retire between the look at it and the publication.
        with locked_live_towers(self._settings.towers_dir) as live:
            moves = self._store.audit()
            self._follow_rollback(moves, live)
            # Not the trail as it is now: a rollback may have come since, and LIVE follows it next.
            if after := self._publish(manifest, moves, live, seen):
                self._settle_towers(manifest.tower_version, after, live)
                close_rollover(self._settings, live, after)

    def _follow_rollback(self, moves: Moves, towers: LockedLiveTowers) -> None:
        record = read_rollover(self._settings)
        if moves and (record is None or record.candidate != moves[-1].tower_version):
            follow_rollback(moves, towers)

    def _publish(
        self, manifest: ReleaseManifest, moves: Moves, live: LockedLiveTowers, seen: str | None
    ) -> Moves:
        """Publish unless it is live, was taken back, or is not wanted.

        Returns the moves up to this release's when it is live, and LIVE is to be settled; else none.
        Raises Refused (`current_moved`) when another release than `seen` is live.
        """
        if manifest.release_id == self._store.current():
            return moves  # a crash may have come before the towers were settled
        # Rebuilt from the same snapshots it may have other bytes: another kind of index, or an HNSW graph.
        again = [one.release_id == manifest.release_id or _same_rows(one, manifest) for one in moves]
        if any(again):
            # A restarted cutter tells of its newest snapshots again: one that was rolled back stays so.
            return moves if again[-1] else []
        if why := self._unwanted(manifest, moves, live.read()):
            log.info("release %s is built and not published: %s", manifest.release_id, why)
            return []
        move = self._store.publish(
            manifest.release_id,
            actor=self._actor,
            reason=f"snapshot {manifest.snapshot_id}",
            expected_current=seen,
            registry_hash=registry().content_hash,
            min_rows_ratio=self._settings.min_rows_ratio,
        )
        log.info("release %s is live (%d Pins)", manifest.release_id, manifest.index.rows)
        return [*moves, move]

    def _unwanted(self, manifest: ReleaseManifest, moves: Moves, live: Sequence[str]) -> str:
        """Why this release does not go live by itself now; empty when it does."""
        before, version = self._store.comparable_live(), manifest.tower_version
        if before is None or before.tower_version == version:
            return ""
        if live and version not in live:
            return "its tower has retired"
        if before.tower_version in live and live.index(version) < live.index(before.tower_version):
            return f"tower {before.tower_version[:12]}, which is live, follows its own"
        record = read_rollover(self._settings)
        is_candidate = record is not None and record.candidate == version
        if record is not None and is_candidate and record.manual:
            return "the rollover waits for `skewless rollover finish`"
        if not is_candidate and version in {move.tower_version for move in moves}:
            return "its tower was live before: `skewless rollover start` takes it up again"
        served = before.tiers
        whys = (
            falls_behind(part, served[name], part.policy)
            for name, part in manifest.tiers.items()
            if name in served
        )
        return next((why for why in whys if why), "")

    def _settle_towers(self, serving: str, moves: Moves, towers: LockedLiveTowers) -> None:
        """After a rollover the tower that went live is the serving one, and those before it retire.

        A candidate is released only when its snapshots cover every Pin of the serving tower, so nothing
        is embedded twice for longer than the backfill takes.
        """
        record = read_rollover(self._settings)
        if record is not None and record.candidate == serving:
            return  # `close_rollover` settles them, unless this release is from before the rollover
        live = towers.read()
        candidate = None if record is None else record.candidate
        if live[:1] == [serving] and moves[-1].action == "publish":
            # One that was turned away by a rollback was kept until the serving tower was level with it.
            gone = {move.tower_version for move in moves} - {serving, candidate}
            towers.write([one for one in live if one not in gone])
        if len(moves) < 2 or moves[-1].tower_version == moves[-2].tower_version:
            return  # the same tower as before, wherever it stands in LIVE
        live = towers.read()
        if serving in live and live[0] != serving:
            towers.write(live[live.index(serving) :])


def _same_rows(move: ReleasePublished, manifest: ReleaseManifest) -> bool:
    """Whether the release of a move was built from the same snapshots, for the same tower."""
    return (move.snapshot_id, move.tower_version) == (manifest.snapshot_id, manifest.tower_version)
