"""The record of the rollover under way, beside LIVE; written and removed by whoever holds LIVE's lock."""

import logging

from models.live_towers import LockedLiveTowers
from schemas.artefacts import manifest_bytes, write_atomic
from schemas.logs import ReleasePublished
from schemas.rollovers import Rollover, parse_rollover
from streams.embedding_runs import ASSEMBLED, EmbeddingRuns

from .settings import Settings

log = logging.getLogger(__name__)

_FILE = "ROLLOVER.json"


def read_rollover(settings: Settings) -> Rollover | None:
    """The rollover under way, or None. Raises Refused (`bad_rollover`) for a damaged record."""
    path = settings.towers_dir / _FILE
    try:
        return parse_rollover(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None


def write_rollover(settings: Settings, record: Rollover) -> None:
    """Replace the record, atomically."""
    write_atomic(settings.towers_dir / _FILE, manifest_bytes(record))


def remove_rollover(settings: Settings) -> None:
    """Nothing is under way any more."""
    (settings.towers_dir / _FILE).unlink(missing_ok=True)


def close_rollover(settings: Settings, towers: LockedLiveTowers, last_move: ReleasePublished) -> bool:
    """End the rollover whose candidate went live by this move: old towers leave LIVE, the record goes.

    Harmless when done again. A release of the candidate that was live before the rollover ends nothing.
    """
    record = read_rollover(settings)
    if record is None or record.candidate != last_move.tower_version:
        return False
    if last_move.occurred_at_ms < record.started_ms:
        return False
    live = towers.read()
    if record.candidate in live:
        towers.write(live[live.index(record.candidate) :])
    remove_rollover(settings)
    runs = EmbeddingRuns(settings.embeddings_dir)
    for name in runs.names(record.candidate):
        if (settings.embeddings_dir / name / ASSEMBLED).is_file():
            runs.discard(name)  # its snapshot is what it was for
    log.info("the rollover to tower %s is over", record.candidate[:12])
    return True
