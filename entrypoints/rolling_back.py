"""Going back a release, and with it to the tower that it is of."""

import logging
import time
from dataclasses import dataclass

from features.definitions import registry
from index.release_contract import Expected, Moves, Releases
from models.live_towers import LockedLiveTowers, free_live_towers
from schemas.errors import Refused, RetryableError
from schemas.logs import ReleasePublished

from .rollover_record import end_turned_away
from .settings import Settings
from .store_connection import release_store

log = logging.getLogger(__name__)

_TRIES = 20
_PAUSE_SECONDS = 0.1
"""LIVE is locked for an instant by most, and for a whole upload by who publishes to an object store."""


@dataclass(frozen=True)
class RolledBack:
    """The move, and LIVE after it when it was changed; else None."""

    move: ReleasePublished
    live_towers: list[str] | None


def roll_back(settings: Settings, actor: str, reason: str, expected: Expected) -> RolledBack:
    """Make the live release's predecessor live again, while `expected` is live; `...` is whatever is.

    When that is of another tower, the workers embed with that one again. The one that was turned away stays
    behind it in LIVE until a snapshot of the old one is level with it, because until then only its rows
    tell what has changed; it is not released by itself again, and a rollover to it that nobody had closed yet
    is over. The candidate of a rollover under way that was not live yet stays.
    The pointer moves first and waits for nobody: who is publishing then is refused (`current_moved`).
    Raises Refused as `Releases.rollback` does.
    """
    store = release_store(settings)
    before = store.comparable_live()
    move = store.rollback(
        actor=actor,
        reason=reason,
        expected_current=expected,
        registry_hash=registry().content_hash,
    )
    known = before is not None and before.release_id == move.previous_release_id
    if known and before is not None and before.tower_version == move.tower_version:
        return RolledBack(move, None)
    return RolledBack(move, _follow_soon(settings, store))


def _follow_soon(settings: Settings, store: Releases) -> list[str] | None:
    """`follow_rollback`, unless LIVE stays locked: then whoever publishes, or the next cutter, follows it."""
    try:
        for left in reversed(range(_TRIES)):
            try:
                with free_live_towers(settings.towers_dir) as towers:
                    # Looked at anew: somebody may have published since, and settled the towers by that.
                    return follow_rollback(settings, store.audit(), towers)
            except Refused as refused:
                if refused.code != "live_locked" or not left:
                    raise
            time.sleep(_PAUSE_SECONDS)
    except (Refused, RetryableError, OSError) as error:
        log.warning("the next cutter will name the tower that was rolled back to first in LIVE: %s", error)
    return None


def follow_rollback(settings: Settings, moves: Moves, towers: LockedLiveTowers) -> list[str] | None:
    """Put the tower that the newest move went back to first in LIVE; LIVE, if that changed it.

    The record of a rollover to the tower that was turned away goes. A rollback does both at once. A rollback
    that was killed before, or was done on a machine that shares no LIVE with the workers, is followed by the
    next cutter: else the workers would embed for a tower that nothing is served of.
    """
    _end_turned_away(settings, moves)
    if not moves or moves[-1].action != "rollback":
        return None
    tower = moves[-1].tower_version
    try:
        live = towers.read()
        if not live or live[0] == tower:
            return None
        towers.write(after := [tower, *(one for one in live if one != tower)])
    except (Refused, OSError) as error:
        # The release is back in any case; on this only the freshness of the next ones depends.
        log.warning("LIVE does not name tower %s, which was rolled back to, first: %s", tower[:12], error)
        return None
    log.warning(
        "LIVE names tower %s, which was rolled back to, first again, not %s", tower[:12], live[0][:12]
    )
    return after


def _end_turned_away(settings: Settings, moves: Moves) -> None:
    try:
        end_turned_away(settings, moves)
    except (Refused, OSError) as error:
        # LIVE is followed all the same: which tower the workers embed with matters more.
        log.warning("the record of the rollover under way stays: %s", error)
