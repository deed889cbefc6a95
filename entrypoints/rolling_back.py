"""Going back a release, and with it to the tower that it is of."""

import logging
from dataclasses import dataclass

from features.definitions import registry
from index.release_contract import Expected
from models.live_towers import locked_live_towers
from schemas.errors import Refused
from schemas.logs import ReleasePublished

from .settings import Settings
from .store_connection import release_store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolledBack:
    """The move, and LIVE after it when it was changed; else None."""

    move: ReleasePublished
    live_towers: list[str] | None


def roll_back(settings: Settings, actor: str, reason: str, expected: Expected) -> RolledBack:
    """Make the live release's predecessor live again, while `expected` is live; `...` is whatever is.

    When that is of another tower, the workers embed with that one again. The one that was turned away stays
    behind it in LIVE until a snapshot of the old one is level with it, because until then only its rows
    tell what has changed; it is not released by itself again. A candidate of a rollover under way stays.
    Raises Refused as `Releases.rollback` does.
    """
    store = release_store(settings)
    with locked_live_towers(settings.towers_dir) as towers:
        move = store.rollback(
            actor=actor,
            reason=reason,
            expected_current=expected,
            registry_hash=registry().content_hash,
        )
        moves = store.audit()
        turned_away = moves[-2].tower_version if len(moves) > 1 else move.tower_version
        if turned_away == move.tower_version:
            return RolledBack(move, None)
        try:
            live = [move.tower_version, *(one for one in towers.read() if one != move.tower_version)]
            towers.write(live)
        except Refused as refused:
            # The release is back in any case; of this only the freshness of the next ones depends.
            log.warning("LIVE still names tower %s: %s", turned_away[:12], refused)
            return RolledBack(move, None)
    return RolledBack(move, live)
