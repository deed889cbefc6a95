"""The record of the rollover under way, beside LIVE; written and removed by whoever holds LIVE's lock."""

import logging

from index.release_contract import Moves
from models.live_towers import LockedLiveTowers
from schemas.artefacts import manifest_bytes, write_atomic
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


def went_live(record: Rollover, moves: Moves) -> bool:
    """Whether the newest move made the candidate live after the rollover began.

    The trail's length tells, not two machines' clocks. A trail that was started anew is shorter.
    """
    if not moves or moves[-1].tower_version != record.candidate:
        return False
    if record.moves is None:  # begun before they were counted
        return moves[-1].occurred_at_ms >= record.started_ms
    return len(moves) != record.moves


def close_rollover(settings: Settings, towers: LockedLiveTowers, moves: Moves) -> bool:
    """End the rollover whose candidate the newest move made live: old towers leave LIVE, the record goes.

    Harmless when done again. A release of the candidate that was live before the rollover ends nothing.
    """
    record = read_rollover(settings)
    if record is None or not went_live(record, moves):
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
