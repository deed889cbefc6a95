"""From snapshots to a live release: build, check, publish.

`Releaser` is what `skewless snapshots` and `skewless embed` hand each new snapshot to.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from features.definitions import registry
from index.builder import BuildPolicy, BuildReport, build_measured
from index.gates import Gate
from index.release_contract import Moves, wall_clock_ms
from index.snapshots import hour_name, newest_of_tiers, snapshot_manifest
from models.live_towers import LockedLiveTowers, locked_live_towers, read_live_towers
from models.predictor import QueryTower
from schemas.errors import Refused, RetryableError
from schemas.manifests import ReleaseManifest, SnapshotManifest
from schemas.tiers import Tiers, VersionPolicy
from schemas.times import HOUR_MS

from .canaries import canaries
from .releasing_rules import Known, is_of, towers_after, was_rolled_back, why_not
from .retention import clean_up
from .rolling_back import follow_rollback
from .rollover_record import close_rollover, read_rollover
from .settings import Settings
from .store_connection import release_store

log = logging.getLogger(__name__)

ACTOR = "skewless snapshots"
"""Who published a release, as the audit trail says, unless the caller names somebody else."""

_ATTEMPTS = 5
_LOST_THE_RACE = {"current_moved", "stale_release", "missing_file", "not_ready"}
"""Refusals that mean: another process published, or deleted a snapshot, while this one built its release.
The newest snapshots are looked up again then, and a release is built of those."""


@dataclass(frozen=True)
class BuildWish:
    """How a release is to be built.

    `tower` is the version of its query tower. None: that of the snapshots' rows, or, of several versions, the
    serving one.
    """

    version_policy: VersionPolicy = "enforce"
    tower: str | None = None
    gates: Sequence[Gate] = ()


def declared_tiers(settings: Settings) -> Tiers | None:
    """The tiers of `tiers.json`. None without that file: then one snapshot holds the whole inventory."""
    return settings.tiers() if (settings.data_dir / "tiers.json").is_file() else None


def build_from_snapshot(settings: Settings, snapshot_id: str) -> ReleaseManifest:
    """Build a release of one snapshot, without publishing it. Raises Refused as `build_from_snapshots`."""
    return build_from_snapshots(settings, [snapshot_id]).manifest


def build_from_snapshots(
    settings: Settings, snapshot_ids: Sequence[str], wish: BuildWish | None = None
) -> BuildReport:
    """Build a release of one snapshot a tier, without publishing it.

    Raises Refused when the snapshots mix tower versions (unless `wish` tolerates that), when a tier has no
    snapshot among them, and when a check of the release fails.
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
    """The serving tower's version, if the snapshots have rows of it; else the version that most rows have.

    Snapshots of several versions are refused by the builder, which needs a query tower to be called with.
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
    """The ids of the newest snapshots with rows of this tower version: of each declared tier that has one.

    Where no tiers are declared, that of `tier` alone.
    """
    declared = declared_tiers(settings)
    streamed = [one.name for one in settings.tiers().tiers if one.policy == "realtime"]
    newest = newest_of_tiers(settings.snapshots_dir, version, streamed)
    names = [one.name for one in declared.tiers] if declared else [tier]
    return [newest[name].snapshot_id for name in names if name in newest]


class Releaser:
    """Publishes a release for each snapshot that is newer than what is live, and deletes old ones.

    Any number of processes may have one. Of two that publish at the same time one is refused
    (`current_moved`): it builds a release of the newest snapshots anew.
    """

    def __init__(
        self,
        settings: Settings,
        gates: Sequence[Gate] = (),
        actor: str = ACTOR,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._settings, self._gates, self._actor, self._clock_ms = settings, gates, actor, clock_ms
        self._store = release_store(settings)
        self._cleaned = False

    def __call__(self, snapshot: SnapshotManifest) -> None:
        """Build a release with this snapshot, check it and publish it.

        A refusal is logged, and what is live stays. Any other error is raised, unless the snapshot is of a
        candidate: the cutter that calls this cuts the serving tower too, and has to go on.
        """
        if not self._cleaned:
            # A process that died while it released, because the disk was full maybe, left files that take the
            # room of this release.
            self._clean_up(snapshot.tier)
        try:
            self._try(snapshot)
        except Exception:
            if not self._of_candidate(snapshot):
                raise
            log.exception("snapshot %s, of a candidate, was not released", snapshot.snapshot_id)
        finally:
            # Whether it was published or not: snapshots are cut on while their releases are refused for days.
            self._clean_up(snapshot.tier)

    def _clean_up(self, tier: str) -> None:
        """Delete what is old. That this fails does not keep the snapshot from being released."""
        self._cleaned = True
        try:
            clean_up(self._settings, self._store, tier)
        except (Refused, RetryableError, OSError) as error:
            log.warning("old releases and snapshots stay until the next snapshot: %s", error)

    def _try(self, snapshot: SnapshotManifest) -> None:
        """Release the newest snapshots of the tower, and newer ones whenever another process was quicker."""
        tried: list[str] = []
        for _ in range(_ATTEMPTS):
            ids: list[str] = []
            try:
                # Looked up before the snapshots are: a release that goes live in between may hold newer ones,
                # and publishing is refused when another than the one seen here is live by then.
                seen = self._live_now()
                ids = self._snapshots_for(snapshot)
                self._warn_of_hours_to_come(ids)
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

    def _live_now(self) -> str | None:
        """The release that CURRENT names. Raises RetryableError while CURRENT cannot be read."""
        try:
            return self._store.current()
        except OSError as error:
            raise RetryableError(f"CURRENT cannot be read: {error}") from error

    def _of_candidate(self, snapshot: SnapshotManifest) -> bool:
        """Whether LIVE names another tower first, the serving one, than that of the snapshot's rows."""
        live = read_live_towers(self._settings.towers_dir)
        return bool(live) and live[0] not in snapshot.versions

    def _snapshots_for(self, snapshot: SnapshotManifest) -> list[str]:
        """Ids of the snapshots to build a release of: the newest of each tier, of this snapshot's tower."""
        if len(snapshot.versions) != 1:
            return [snapshot.snapshot_id]  # of no version, or of several: the builder refuses it
        return newest_snapshots(self._settings, next(iter(snapshot.versions)), snapshot.tier) or [
            snapshot.snapshot_id
        ]

    def _warn_of_hours_to_come(self, snapshot_ids: Sequence[str]) -> None:
        """Say so when a snapshot is of an hour that has not come: until then it stays the newest there is.

        A machine whose clock is ahead cuts such a snapshot. When the clock is right again, each later cut is
        of an earlier hour, and no release is built of it.
        """
        latest_ms = self._clock_ms() + HOUR_MS
        for name in snapshot_ids:
            hour_ms = snapshot_manifest(self._settings.snapshots_dir, name).hour_ms
            if hour_ms > latest_ms:
                log.warning(
                    "snapshot %s is of an hour that has not come: was a clock ahead? Nothing that is cut "
                    "before %s is released. The runbook is ReleaseStale",
                    name,
                    hour_name(hour_ms),
                )

    def _release(self, snapshot_ids: Sequence[str], seen: str | None) -> None:
        manifest = build_from_snapshots(self._settings, snapshot_ids, BuildWish(gates=self._gates)).manifest
        # Whoever changes LIVE waits: a tower cannot retire between the look at LIVE and the publication.
        with locked_live_towers(self._settings.towers_dir) as towers:
            moves = self._store.audit()
            self._follow_rollback(moves, towers)
            # The trail up to this publication: a rollback may have come since, and LIVE follows it next.
            if after := self._publish(manifest, moves, towers, seen):
                self._settle_towers(manifest, after, towers)
                close_rollover(self._settings, towers, after)

    def _follow_rollback(self, moves: Moves, towers: LockedLiveTowers) -> None:
        """Let LIVE follow a rollback, unless it went back to the tower that a rollover wants to get to."""
        record = read_rollover(self._settings)
        if moves and (record is None or record.candidate != moves[-1].tower_version):
            follow_rollback(self._settings, moves, towers)

    def _publish(
        self, manifest: ReleaseManifest, moves: Moves, towers: LockedLiveTowers, seen: str | None
    ) -> Moves:
        """Publish the release, unless it is live, was rolled back, or is not to go live by itself.

        Returns the moves up to the one that made it live, to settle LIVE by; none when it is not live.
        Raises Refused (`current_moved`) when another release than `seen` is live.
        """
        is_live = manifest.release_id == self._store.current()
        if is_live or (moves and is_of(moves[-1], manifest)):
            return moves  # a crash may have come between its publication and the settling of LIVE
        record, served = read_rollover(self._settings), self._store.comparable_live()
        known = Known(moves, towers.read(), record, served)
        if was_rolled_back(manifest, known):
            # A cutter that is started again hands its newest snapshots on again.
            why = "it was live and was rolled back; `skewless release publish` makes it live again"
        else:
            why = why_not(manifest, known)
        if why:
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

    def _settle_towers(self, manifest: ReleaseManifest, moves: Moves, towers: LockedLiveTowers) -> None:
        """Let LIVE name the towers that are to be embedded with now that this release is live."""
        before = towers.read()
        after = towers_after(manifest, Known(moves, before, read_rollover(self._settings)))
        if after != before:
            towers.write(after)
