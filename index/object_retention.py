"""Which releases of an object store go, and how: the pointer names them first, so that none goes live."""

from collections.abc import Collection

from schemas.artefacts import READY
from schemas.errors import RetryableError

from .local_copies import hour_of
from .object_moves import PointerMoves, Seen
from .object_store import Listed, Objects
from .release_contract import Ids, is_release_id

RELEASES = "releases"
_RACES = 20

_Files = dict[str, Listed]


def finished(objects: Objects) -> Ids:
    """Ids of the releases whose READY is there."""
    return [name for name, files in _by_release(objects).items() if READY in files]


def surplus(objects: Objects, count: int, needed: Collection[str], older_ms: int) -> tuple[Ids, Ids]:
    """The finished releases beyond the `count` newest and the needed ones; and those without READY that
    nothing was added to since `older_ms`.
    """
    listed = _by_release(objects)
    complete = [name for name, files in listed.items() if READY in files]
    # By hour, which ids begin with, and then by when they were finished.
    by_age = sorted(complete, key=lambda one: (hour_of(one), listed[one][READY].modified_ms, one))
    doomed = [one for one in by_age[: max(len(by_age) - count, 0)] if one not in needed]
    abandoned = [
        name
        for name, files in listed.items()
        if READY not in files and max(one.modified_ms for one in files.values()) < older_ms
    ]
    return doomed, abandoned


def delete_releases(objects: Objects, moves: PointerMoves, seen: Seen, doomed: Ids) -> bool:
    """Delete releases; False when somebody moved the pointer first, and then nothing was deleted.

    NOTE: an object store deletes without a condition. A clean-up that stands still for minutes between two
    requests, and goes on after another one finished its work and one of these releases was sent up again,
    takes files of that. What is live then is refused by name; publishing it once more heals it.
    """
    if not moves.mark_deleting(seen, doomed):
        return False
    for release_id in doomed:
        keys = [one.key for one in objects.list(f"{RELEASES}/{release_id}")]
        ready = f"{RELEASES}/{release_id}/{READY}"
        # READY first: from here on nobody takes it for a release, however far the deletion gets.
        objects.delete([ready] if ready in keys else [])
        objects.delete([key for key in keys if key != ready])
    for _ in range(_RACES):
        now = moves.read()
        if now is None:
            return True
        left = [one for one in now.pointer.deleting if one not in doomed]
        if moves.mark_deleting(now, left):
            return True
    raise too_many_races()


def too_many_races() -> RetryableError:
    """Others moved the pointer each time."""
    return RetryableError(f"{_RACES} others moved the pointer first: try again")


def _by_release(objects: Objects) -> dict[str, _Files]:
    found: dict[str, _Files] = {}
    for one in objects.list(RELEASES):
        name, _, file = one.key.removeprefix(f"{RELEASES}/").partition("/")
        if is_release_id(name):
            found.setdefault(name, {})[file] = one
    return found
