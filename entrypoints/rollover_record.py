"""The record of the rollover under way, beside LIVE; written and removed by whoever holds LIVE's lock."""

import logging

from index.release_contract import Moves
from models.live_towers import LockedLiveTowers
from schemas.artefacts import manifest_bytes, write_atomic
from schemas.rollovers import Rollover, parse_rollover
from streams.embedding_runs import EmbeddingRuns

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


def moves_since(record: Rollover, moves: Moves) -> Moves:
    """The moves of CURRENT that came after the rollover began.

    The trail's length tells which these are, not two machines' clocks. A trail that was started anew is
    shorter than at the start of the rollover: all of it came after.
    """
    if record.moves is None:  # a record from before the moves were counted
        return [move for move in moves if move.occurred_at_ms >= record.started_ms]
    return moves[record.moves :] if len(moves) >= record.moves else moves


def went_live(record: Rollover, moves: Moves) -> bool:
    """Whether a move after the rollover began made the candidate live, and it is live now."""
    since = moves_since(record, moves)
    is_newest = since[-1:] == moves[-1:]
    return bool(since) and is_newest and since[-1].tower_version == record.candidate


def was_live(record: Rollover, moves: Moves) -> bool:
    """Whether the candidate went live after the rollover began, whatever is live now."""
    return any(move.tower_version == record.candidate for move in moves_since(record, moves))


def end_turned_away(settings: Settings, moves: Moves) -> bool:
    """Remove the record of a rollover whose candidate went live and was turned away again.

    Such a record is left when nobody closed the rollover before the rollback, because whoever published was
    killed, or published by hand. The next snapshot of the candidate would make it live once more.
    For whoever holds LIVE's lock. Raises Refused (`bad_rollover`).
    """
    record = read_rollover(settings)
    if record is None or went_live(record, moves) or not was_live(record, moves):
        return False
    remove_rollover(settings)
    log.warning("the rollover to tower %s is over: it went live and was turned away", record.candidate[:12])
    return True


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
    EmbeddingRuns(settings.embeddings_dir).discard_assembled(record.candidate)
    log.info("the rollover to tower %s is over", record.candidate[:12])
    return True
