"""Which release goes live by itself, and which towers LIVE names after it: rules over what is known.

Nothing is read or written here. `entrypoints.releasing` reads what the rules go by while it holds LIVE's
lock, and does what they say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from index.release_contract import Moves
from index.snapshots import falls_behind
from schemas.logs import ReleasePublished
from schemas.manifests import ReleaseManifest
from schemas.rollovers import Rollover

from .rollover_record import was_live


@dataclass(frozen=True)
class Known:
    """What the rules go by.

    `moves` of CURRENT, oldest first; the towers in LIVE, the serving one first; the `record` of the rollover
    under way, if one is; the release that is `served`, None when none is or it is damaged.
    """

    moves: Moves
    live: Sequence[str]
    record: Rollover | None
    served: ReleaseManifest | None = None

    def is_candidate(self, version: str) -> bool:
        """Whether a rollover to this tower is under way, and has not made it live yet."""
        record = self.record
        return record is not None and record.candidate == version and not was_live(record, self.moves)


def is_of(move: ReleasePublished, manifest: ReleaseManifest) -> bool:
    """Whether a move was to this release, or to one of the same snapshots and tower.

    Built anew a release may have other bytes, and so another id: another kind of index, or an HNSW graph.
    """
    same = (move.snapshot_id, move.tower_version) == (manifest.snapshot_id, manifest.tower_version)
    return same or move.release_id == manifest.release_id


def was_rolled_back(manifest: ReleaseManifest, known: Known) -> bool:
    """Whether the release was live, is not any more, and nobody has asked for it since."""
    published = any(is_of(move, manifest) for move in known.moves)
    return published and not is_of(known.moves[-1], manifest) and not _is_asked_for(manifest, known)


def _is_asked_for(manifest: ReleaseManifest, known: Known) -> bool:
    """Whether `rollover start` took the release's tower up again right after it was rolled back.

    That is a wish for this very release, as long as it is as fresh as what is served: nothing was published
    since the rollback, and the workers have embedded with its tower all the time.
    """
    record, version = known.record, manifest.tower_version
    if record is None or record.manual or not record.embedded_before or not known.is_candidate(version):
        return False
    return any(is_of(move, manifest) for move in known.moves[-2:-1])


def why_not(manifest: ReleaseManifest, known: Known) -> str:
    """Why a release that was never live does not go live by itself now; empty when it does.

    A newer release of the tower that is served does. One of another tower does when it is the candidate's, or
    LIVE names its tower after the one that is served, and every tier is as fresh as what is served.
    """
    served, live, version = known.served, known.live, manifest.tower_version
    if served is None or served.tower_version == version:
        return ""
    if live and version not in live:
        return "its tower has retired"
    if served.tower_version in live and live.index(version) < live.index(served.tower_version):
        return f"tower {served.tower_version[:12]}, which is live, follows its own"
    is_candidate = known.is_candidate(version)
    if is_candidate and known.record is not None and known.record.manual:
        return "the rollover waits for `skewless rollover finish`"
    if not is_candidate and version in {move.tower_version for move in known.moves}:
        return "its tower was live before: `skewless rollover start` takes it up again"
    whys = (
        falls_behind(part, served.tiers[name], part.policy)
        for name, part in manifest.tiers.items()
        if name in served.tiers
    )
    return next((why for why in whys if why), "")


def towers_after(manifest: ReleaseManifest, known: Known) -> list[str]:
    """What LIVE is to name now that the release is live, by the newest of the moves.

    A tower that went live by this move is the serving one, and those before it in LIVE retire: a candidate is
    released only when its snapshots cover every Pin of theirs. A tower that a rollback has turned away stays
    in LIVE behind the serving one until that is level with it.
    """
    serving, moves, live = manifest.tower_version, known.moves, list(known.live)
    candidate = None if known.record is None else known.record.candidate
    if candidate == serving:
        return live  # the rollover's end settles them, unless this release is from before the rollover
    if live[:1] == [serving] and moves[-1].action == "publish":
        gone = {move.tower_version for move in moves} - {serving, candidate}
        live = [one for one in live if one not in gone or not _is_level(manifest, moves, one)]
    changed_tower = len(moves) > 1 and moves[-1].tower_version != moves[-2].tower_version
    if changed_tower and serving in live:
        live = live[live.index(serving) :]
    return live


def _is_level(manifest: ReleaseManifest, moves: Moves, tower: str) -> bool:
    """Whether the live release holds all that changed while another `tower` was live, which is not any more.

    The cutter of a realtime tier cuts the serving tower only when none of its rows is older than what the
    cutter has of the other. So the tier is level when its snapshot was cut after the rollback. A snapshot in
    a release up to the rollback was cut before; it comes into a release once more when another tier has a new
    one. A batch tier is embedded from the Pin states, which hold all changes.
    """
    away = 1 + max(number for number, move in enumerate(moves) if move.tower_version == tower)
    if [move.action for move in moves[away : away + 1]] != ["rollback"]:
        return True
    before = {name for move in moves[: away + 1] for name in move.snapshot_id.split("+")}
    return all(part.policy == "batch" or part.snapshot_id not in before for part in manifest.tiers.values())
