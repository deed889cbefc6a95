"""The pointer of an object store and its audit trail: moves that only one of many writers can make.

`CURRENT` is replaced only by whoever saw its present tag (compare-and-set). It names the release and the
move that made it live. A move is an object of its own, `audit/<number>.json`, written before the pointer
and only where no such number is yet; it names the move before it. So the trail is the chain that starts at
CURRENT: a move that a crash or a lost race left without its pointer is in no chain.

Both are sealed: their first line is the sha256 of the rest.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.artefacts import write_atomic
from schemas.errors import Refused, RetryableError
from schemas.logs import ReleasePublished

from .object_store import Objects

CURRENT = "CURRENT"
AUDIT = "audit"

_ATTEMPTS = 4
_READERS = 8
_MOST_NUMBERS_TAKEN = 1000


class _Sealed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Pointer(_Sealed):
    """What CURRENT holds. `token` is new at each write: no two states of the pointer have the same bytes."""

    format: Literal[1] = 1
    release_id: str
    move: int = Field(ge=1)
    token: str
    deleting: list[str] = Field(default_factory=list, description="releases that a clean-up is deleting")


class Move(_Sealed):
    """One move. A rollback from this one makes `back_to`'s release live."""

    format: Literal[1] = 1
    move: int = Field(ge=1)
    previous_move: int | None
    back_to: int | None
    token: str
    event: dict[str, str | int | None]

    @property
    def line(self) -> ReleasePublished:
        """The move as it goes onto Kafka."""
        return ReleasePublished.model_validate(self.event)


SealedT = TypeVar("SealedT", bound=_Sealed)
FoundT = TypeVar("FoundT")


@dataclass(frozen=True)
class Seen:
    """The pointer as it was when it was read."""

    pointer: Pointer
    tag: str


class _ForeignMove(Refused):
    """A move that is not the one that CURRENT, or the move after it, follows from."""


class PointerMoves:
    """CURRENT and `audit/` of one store. Moves never change, so each is read once and kept in `cache`.

    But a store that is emptied and begun anew at the same address numbers its moves from 1 again. So every
    move of the chain is compared with the release that CURRENT, or the move after it, says was live by it.
    """

    def __init__(self, objects: Objects, cache: Path, new_token: Callable[[], str]) -> None:
        self._objects = objects
        self._cache = cache
        self._new_token = new_token

    def read(self) -> Seen | None:
        """The pointer; None when nothing was ever published. Raises Refused when it is damaged."""
        found = self._objects.get(CURRENT)
        if found is None:
            return None
        fix = f"Restore {CURRENT} from a version before, or write it anew from the last of {AUDIT}/."
        return Seen(_unsealed(found.data, Pointer, CURRENT, "bad_current", fix), found.tag)

    def move(self, number: int) -> Move:
        """One move of the trail. Raises Refused when it is damaged or missing."""
        cached = self._cache / _name(number)
        try:
            data = cached.read_bytes()
            return _unsealed(data, Move, str(cached), "bad_audit", "")
        except (FileNotFoundError, Refused):  # a damaged copy is fetched again
            pass
        key = f"{AUDIT}/{_name(number)}"
        found = self._objects.get(key)
        fix = f"Restore {key} from a backup: the trail goes through it."
        if found is None:
            raise Refused("bad_audit", f"the move in {key}", "no such object", fix)
        move = _unsealed(found.data, Move, key, "bad_audit", fix)
        if move.move != number:
            raise Refused("bad_audit", f"move {number} in {key}", f"move {move.move}", fix)
        with suppress(OSError):  # a full disk: it is read from the store each time
            write_atomic(cached, found.data)
        return move

    def latest(self, seen: Seen) -> Move:
        """The move that made live what is. Raises Refused when it is damaged, missing or another's."""
        return self._reread(lambda: next(self._back_from(seen.pointer)))

    def way_back(self, seen: Seen) -> Move | None:
        """The move that a rollback goes back to; None from the first. Raises Refused like `latest`."""
        back_to = self.latest(seen).back_to
        if back_to is None:
            return None
        # The whole way, not that move alone: only by the moves in between is it known to be of this trail.
        way = self._reread(lambda: list(self._back_from(seen.pointer, back_to)))
        if way[-1].move != back_to:
            fix = f"Restore {AUDIT}/ from a backup."
            raise Refused("bad_audit", f"move {back_to} before {seen.pointer.move}", "none", fix)
        return way[-1]

    def trail(self, seen: Seen | None) -> list[Move]:
        """Every move up to this pointer, oldest first; without those that never happened."""
        if seen is None:
            return []

        def read() -> list[Move]:
            self._read_ahead(seen.pointer.move)
            return list(self._back_from(seen.pointer))[::-1]

        return self._reread(read)

    def advance(self, seen: Seen | None, event: ReleasePublished, back_to: int | None) -> Move | None:
        """Make a move on top of `seen`; None when somebody else moved first, and then nothing happened.

        Raises RetryableError when the store went away in the middle: then it may or may not have happened.
        """
        previous = None if seen is None else seen.pointer.move
        move = self._claim(previous, event, back_to)
        pointer = Pointer(
            release_id=event.release_id,
            move=move.move,
            token=self._new_token(),
            deleting=[] if seen is None else seen.pointer.deleting,
        )
        return move if self._swap(seen, pointer, move.move) else None

    def mark_deleting(self, seen: Seen, release_ids: list[str]) -> bool:
        """Say in the pointer which releases are being deleted; False when somebody else moved first.

        From then on nobody can make one of them live: who looked before loses the compare-and-set.
        """
        update = {"deleting": release_ids, "token": self._new_token()}
        return self._swap(seen, seen.pointer.model_copy(update=update), None)

    def _claim(self, previous: int | None, event: ReleasePublished, back_to: int | None) -> Move:
        """Write the move under the first free number after `previous`."""
        token, first = self._new_token(), (previous or 0) + 1
        for number in range(first, first + _MOST_NUMBERS_TAKEN):
            move = Move(
                move=number,
                previous_move=previous,
                back_to=back_to,
                token=token,
                event=event.model_dump(mode="json"),
            )
            if self._put_if_absent(f"{AUDIT}/{_name(number)}", _sealed(move)):
                return move
        raise Refused(
            "bad_audit",
            f"a free number within {_MOST_NUMBERS_TAKEN} after move {first - 1}",
            f"objects up to {AUDIT}/{_name(first + _MOST_NUMBERS_TAKEN - 1)}",
            f"Moves that never happened pile up: find who writes them, then delete those after {first - 1}.",
        )

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        """Whether this content is at `key`, written now or by a try that was not heard of."""

        def attempt() -> bool:
            if self._objects.put_if_absent(key, data):
                return True
            there = self._objects.get(key)
            return there is not None and there.data == data

        return _insist(attempt)

    def _swap(self, seen: Seen | None, pointer: Pointer, made: int | None) -> bool:
        """Compare-and-set of CURRENT. `made` is the number of the move that this makes, if it makes one."""
        data = _sealed(pointer)

        def attempt() -> bool:
            if seen is None:
                written = self._objects.put_if_absent(CURRENT, data)
            else:
                written = self._objects.put_if_match(CURRENT, data, seen.tag)
            return written or self._happened(pointer.token, made)

        return _insist(attempt)

    def _happened(self, token: str, made: int | None) -> bool:
        """Whether a swap that was refused, or not heard of, is in what CURRENT says now."""
        now = self.read()
        if now is None or now.pointer.token == token:
            return now is not None
        if made is None:
            return False
        # Applied, unheard of, and built upon since: then the move, of a number that is ours alone, is in the
        # chain.
        return self._reread(lambda: any(one.move == made for one in self._back_from(now.pointer, made)))

    def _reread(self, read: Callable[[], FoundT]) -> FoundT:
        """Read what the store has now when a move in the cache is of a chain that was there before."""
        try:
            return read()
        except _ForeignMove:
            shutil.rmtree(self._cache, ignore_errors=True)
            return read()

    def _back_from(self, pointer: Pointer, first: int = 1) -> Iterator[Move]:
        """The chain that ends at the pointer, backwards, as far as the number `first`."""
        number: int | None = pointer.move
        release_id: str | None = pointer.release_id
        while number is not None and number >= first:
            move = self.move(number)
            if move.line.release_id != release_id:
                expected = f"the move that made {release_id} live in {AUDIT}/{_name(number)}"
                fix = f"Restore {AUDIT}/ and {CURRENT} from one backup."
                raise _ForeignMove("bad_audit", expected, f"that of {move.line.release_id}", fix)
            yield move
            if move.previous_move is not None and move.previous_move >= number:
                fix = f"Restore {AUDIT}/ from a backup."
                raise Refused("bad_audit", f"a move before {number}", str(move.previous_move), fix)
            number, release_id = move.previous_move, move.line.previous_release_id

    def _read_ahead(self, last: int) -> None:
        """Fetch what is not in the cache side by side; what is amiss is found when the chain gets there."""
        missing = [number for number in range(1, last + 1) if not (self._cache / _name(number)).is_file()]
        if len(missing) > 1:
            with ThreadPoolExecutor(_READERS) as readers:
                for done in [readers.submit(self._read_quietly, number) for number in missing]:
                    done.result()

    def _read_quietly(self, number: int) -> None:
        try:
            self.move(number)
        except Refused:
            return


def _insist(attempt: Callable[[], bool]) -> bool:
    """Repeat a write whose outcome is unknown until it is known; each attempt knows its own traces."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            return attempt()
        except RetryableError as error:
            if not left:
                text = f"it is not known whether the move happened; look at what is live. {error}"
                raise RetryableError(text) from error
    raise AssertionError("unreachable")


def _name(number: int) -> str:
    return f"{number:012d}.json"


def _sealed(model: BaseModel) -> bytes:
    text = model.model_dump_json().encode()
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text + b"\n"


def _unsealed(data: bytes, model: type[SealedT], name: str, code: str, fix: str) -> SealedT:
    seal, _, text = data.partition(b"\n")
    if seal != hashlib.sha256(text.removesuffix(b"\n")).hexdigest().encode() or not text.endswith(b"\n"):
        raise Refused(code, f"{name} with the sha256 of its content", repr(data[:80]), fix)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise Refused(code, f"a {model.__name__} in {name}", str(error)[:300], fix) from error
