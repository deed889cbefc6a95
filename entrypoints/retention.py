"""What a data directory keeps of releases, snapshots and embedding runs; the rest goes."""

import logging
from collections.abc import Sequence
from itertools import pairwise

from index.local_copies import sweep_staged
from index.release_contract import Releases, wall_clock_ms
from index.snapshot_retention import retain_snapshots
from models.live_towers import read_live_towers
from schemas.errors import Refused, RetryableError
from schemas.logs import ReleasePublished
from streams.embedding_runs import EmbeddingRuns

from .rollover_record import read_rollover
from .settings import Settings

log = logging.getLogger(__name__)


def clean_up(settings: Settings, store: Releases, tier: str) -> None:
    """Delete old releases, snapshots of `tier` and of the declared tiers, and what killed processes left.

    Of a tower that has retired only some days' snapshots stay, and no run of the batch embedder.
    Raises Refused or RetryableError when the store does not allow it; the rest is done all the same. Raises
    OSError, and leaves the rest, when the disk does not.
    """
    try:
        store.retain(settings.keep_releases)  # first: releases take the most room, and the disk may be full
    finally:
        _clean_up_data(settings, store, tier)


def _clean_up_data(settings: Settings, store: Releases, tier: str) -> None:
    """What stands in the data directory beside the releases."""
    for root in (settings.snapshots_dir, settings.towers_dir, settings.embeddings_dir):
        sweep_staged(root, wall_clock_ms())
    retired = _retired(settings, store)
    for name in {tier, *(one.name for one in settings.tiers().tiers)}:
        retain_snapshots(
            settings.snapshots_dir, name, settings.keep_releases, settings.keep_snapshot_days, retired
        )
    runs = EmbeddingRuns(settings.embeddings_dir)
    for version, retired_ms in retired.items():
        runs.discard_old(version, retired_ms)


def _retired(settings: Settings, store: Releases) -> dict[str, int]:
    """Towers that were live and nobody needs any more -> when another one took over. None if in doubt."""
    try:
        moves, record = store.audit(), read_rollover(settings)
        live = read_live_towers(settings.towers_dir)
    except (Refused, RetryableError, OSError) as error:
        log.warning("what retired towers left stays until the next snapshot: %s", error)
        return {}
    if not live:
        return {}
    needed = {*live, *_way_back(moves)[-2:]}
    if record is not None:
        needed |= {record.serving, record.candidate}
    # Of a tower's moves the last one counts: it may have come back in between.
    after = {move.tower_version: then for move, then in pairwise(moves)}
    return {one: then.occurred_at_ms for one, then in after.items() if one not in needed}


def _way_back(moves: Sequence[ReleasePublished]) -> list[str]:
    """Towers of the live release and, before it, of those that a rollback goes back through."""
    trail: list[str] = []
    for move in moves:
        trail = trail[:-1] if move.action == "rollback" else [*trail, move.tower_version]
    return trail
