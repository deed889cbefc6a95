"""What a candidate tower leaves on disk: found before a rollover begins, deleted when it is aborted."""

import logging
from collections.abc import Callable, Collection

from index.snapshot_retention import delete_snapshot, sweep_deleted
from index.snapshots import list_snapshots, snapshot_manifest
from schemas.errors import Refused, RetryableError
from schemas.file_locks import is_held
from schemas.rollovers import Rollover
from streams.cutter_status import read_cutter_status
from streams.embedding_runs import EmbeddingRuns

from .rollover_cost import embed_files
from .settings import Settings
from .store_connection import release_store

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2


def snapshots_of(settings: Settings, version: str) -> list[str]:
    """Snapshots with rows of this tower only."""
    found = []
    for name in list_snapshots(settings.snapshots_dir):
        try:
            if set(snapshot_manifest(settings.snapshots_dir, name).versions) == {version}:
                found.append(name)
        except Refused as damaged:
            log.warning("snapshot %s is left alone: %s", name, damaged)
    return found


def releases_of(settings: Settings, version: str) -> list[str]:
    """Releases of this tower."""
    store = release_store(settings)
    found = []
    for name in store.list():
        try:
            if store.manifest(name).tower_version == version:
                found.append(name)
        except Refused as damaged:
            log.warning("release %s is left alone: %s", name, damaged)
    return found


def wait_for_cutters(
    settings: Settings,
    version: str,
    seconds: float,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> None:
    """Until no cutter on this host may still write a snapshot of the candidate, or build a release of it.

    Raises RetryableError when one still may after so many `seconds` of the monotonic `clock`.
    """
    deadline = clock() + seconds
    for tier in settings.tiers().tiers:
        while is_held(settings.cutter_lock(tier.name)):
            said = read_cutter_status(settings.status_file(f"cutter-{tier.name}"))
            if said is not None and version not in said.live:
                break
            if clock() >= deadline:
                raise RetryableError(
                    f"LIVE no longer names {version[:12]}, but the cutter of tier {tier.name} still has it; "
                    "abort again to delete what it left"
                )
            pause(_LOOK_SECONDS)


def discard_runs(settings: Settings, version: str, keep: Collection[str]) -> list[str]:
    """Delete the batch job's runs of the tower, but those to `keep`, and what it said of itself."""
    runs = EmbeddingRuns(settings.embeddings_dir)
    doomed = [name for name in runs.names(version) if name not in keep]
    for name in doomed:
        runs.discard(name)
    for tier in settings.tiers().tiers:
        for path, _ in embed_files(settings, tier.name, version):
            path.unlink(missing_ok=True)
    return [f"embeddings/{name}" for name in doomed]


def discard_finished_runs(settings: Settings, version: str) -> None:
    """Delete the batch job's runs of the tower that are over, and what was said of a run that is gone."""
    EmbeddingRuns(settings.embeddings_dir).discard_assembled(version)
    for tier in settings.tiers().tiers:
        for path, said in embed_files(settings, tier.name, version):
            if said.run_id and not (settings.embeddings_dir / said.run_id).is_dir():
                path.unlink(missing_ok=True)


def discard_snapshots(settings: Settings, version: str, record: Rollover) -> list[str]:
    """Delete the tower's snapshots, but those from before the rollover."""
    sweep_deleted(settings.snapshots_dir)
    doomed = [name for name in snapshots_of(settings, version) if name not in record.kept_snapshots]
    return [f"snapshots/{name}" for name in doomed if delete_snapshot(settings.snapshots_dir, name)]


def discard_releases(settings: Settings, version: str, record: Rollover) -> list[str]:
    """What was built of the candidate and never published. What was is in the trail, and stays."""
    doomed = [name for name in releases_of(settings, version) if name not in record.kept_releases]
    return [f"releases/{name}" for name in release_store(settings).discard(doomed)]
