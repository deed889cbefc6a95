"""Going back a release, and with it to the tower that it is of."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from features.definitions import registry
from index.release_contract import Expected
from models.live_towers import LockedLiveTowers, locked_live_towers
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
        before = store.comparable_live()
        move = store.rollback(
            actor=actor,
            reason=reason,
            expected_current=expected,
            registry_hash=registry().content_hash,
        )
        if before is not None and before.tower_version == move.tower_version:
            return RolledBack(move, None)
        return RolledBack(move, follow_rollback([move], towers))


def follow_rollback(moves: Sequence[ReleasePublished], towers: LockedLiveTowers) -> list[str] | None:
    """Put the tower that the newest move went back to first in LIVE; LIVE, if that changed it.

    A rollback does it at once. One that was killed before, or was done on a machine that shares no LIVE with
    the workers, is followed by the next cutter: else they would embed for a tower that nothing is served of.
    """
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
