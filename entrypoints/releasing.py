"""From a snapshot to a live release: build, check, publish. What the cutter calls after each cut."""

import logging

from features.definitions import registry
from index.builder import BuildPolicy, build_release
from index.loading import load_index
from index.snapshots import retain_snapshots, snapshot_manifest
from models.checkpoint import read_tower_manifest
from models.live_towers import read_live_towers, write_live_towers
from models.predictor import QueryTower
from schemas.errors import Refused
from schemas.manifests import CheckResult, ReleaseManifest, SnapshotManifest

from .settings import Settings
from .wiring import release_store

log = logging.getLogger(__name__)

ACTOR = "skewless snapshots"


def build_from_snapshot(settings: Settings, snapshot_id: str) -> ReleaseManifest:
    """Build a release that is not live yet.

    Raises Refused when the snapshot mixes tower versions, and for everything else that does not fit.
    """
    versions = snapshot_manifest(settings.snapshots_dir, snapshot_id).versions
    if not versions:
        raise Refused(
            "empty", "a snapshot with rows", f"none in {snapshot_id}", "Cut one when there are Pins."
        )
    # Any of its versions will do to look up a tower: that there is only one, the builder makes sure.
    commonest = max(versions, key=lambda version: versions[version])
    return build_release(
        release_store(settings),
        settings.snapshots_dir,
        snapshot_id,
        tower=read_tower_manifest(settings.towers_dir, commonest),
        registry_hash=registry().content_hash,
        kind=settings.index_kind,
        policy=BuildPolicy(threads=settings.threads),
    )


def check_release(settings: Settings, release_id: str | None) -> list[CheckResult]:
    """Load a release (None: the live one) as a server would; returns its checks. Raises Refused."""
    store = release_store(settings)
    wanted = release_id or store.current()
    if wanted is None:
        raise Refused("no_release", "a live release", "none", "`skewless release publish ID` makes one live.")
    index = load_index(store, wanted, registry_hash=registry().content_hash)
    tower = QueryTower.load(settings.towers_dir, index.tower_version, registry())
    loaded = CheckResult(
        name="loads",
        ok=True,
        detail=f"{len(index)} rows and query tower {tower.version[:12]}, every checksum right",
    )
    return [*index.manifest.checks, loaded]


class Releaser:
    """Publishes a release for each snapshot that is newer than what is live; keeps the newest few."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = release_store(settings)

    def __call__(self, snapshot: SnapshotManifest) -> None:
        """Build, check, publish. A refused snapshot is logged; what is live stays."""
        try:
            manifest = build_from_snapshot(self._settings, snapshot.snapshot_id)
            if manifest.release_id == self._store.current():
                self._settle_towers(manifest.tower_version)  # a crash may have come before it
                return
            if manifest.release_id in {move.release_id for move in self._store.audit()}:
                # A restarted cutter tells of its newest snapshots again: one that was rolled back stays so.
                return
            self._store.publish(
                manifest.release_id,
                actor=ACTOR,
                reason=f"snapshot {snapshot.snapshot_id}",
                registry_hash=registry().content_hash,
            )
        except Refused as refused:
            log.warning("snapshot %s was not released: %s", snapshot.snapshot_id, refused)
            return
        log.info("release %s is live (%d Pins)", manifest.release_id, manifest.index.rows)
        self._settle_towers(manifest.tower_version)
        self._store.retain(self._settings.keep_releases)
        retain_snapshots(self._settings.snapshots_dir, self._settings.tier, self._settings.keep_releases)

    def _settle_towers(self, serving: str) -> None:
        """After a rollover the tower that went live is the serving one, and those before it retire.

        The cutter cuts a candidate only when it covers every Pin of the serving tower, so nothing is
        embedded twice for longer than the backfill takes.
        """
        moves = self._store.audit()
        if len(moves) < 2 or moves[-1].tower_version == moves[-2].tower_version:
            return  # the same tower as before, wherever it stands in LIVE
        live = read_live_towers(self._settings.towers_dir)
        if serving in live and live[0] != serving:
            write_live_towers(self._settings.towers_dir, live[live.index(serving) :])
