"""Files that another process appends to, read as whole lines from a position: the outbox of what is no
Kafka client itself.

The server writes `ranking-<n>.jsonl`, publishing a release writes `audit.jsonl`. Neither waits for a
broker. What they wrote is found here, line by line, and `streams.shipping` sends it.

A line counts when its line break is there: what a crash cut short is passed over, and so is a move of
CURRENT that never happened (`index.releases`: a line is written before its move, so the last line is
sent once CURRENT says so, or the next line begins where it ended).
"""

import hashlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from pydantic import BaseModel

from index.releases import AUDIT, ReleaseStore
from schemas.codec import decode
from schemas.errors import DeadLetterReason, InvalidMessage, Refused, RetryableError
from schemas.topics import RANKING_LOGGED, RELEASE_PUBLISHED, Topic

log = logging.getLogger(__name__)

CHUNK_BYTES = 4 << 20
"""Most that is read of a file at once; no valid line is nearly as long."""

_HEAD_BYTES = 4096


class Line(NamedTuple):
    """One whole line: where it is, the bytes that it takes up (break included), and what it is.

    `event` is None for a line that can never be one; `reason` and `detail` say why. A line that has no
    business on Kafka is `abandoned`.
    """

    offset: int
    size_bytes: int
    value: bytes
    event: BaseModel | None = None
    reason: DeadLetterReason | None = None
    detail: str = ""
    abandoned: bool = False


class Journal(Protocol):
    """Files of one kind, and the topic that their lines belong on."""

    @property
    def topic(self) -> Topic:
        """Where the lines go."""
        ...

    def files(self) -> list[Path]:
        """Those that are there now."""
        ...

    def lines(self, path: Path, offset: int) -> list[Line]:
        """Whole lines from a position on, up to about `CHUNK_BYTES`; those that have to wait left out."""
        ...


@dataclass(frozen=True)
class RankingJournal:
    """`logs/ranking-<n>.jsonl`. Several servers may write into one directory, each into its own files."""

    directory: Path
    topic: Topic = RANKING_LOGGED

    def files(self) -> list[Path]:
        """See `Journal`."""
        return sorted(self.directory.glob("ranking-[0-9]*.jsonl"))

    def lines(self, path: Path, offset: int) -> list[Line]:
        """See `Journal`."""
        return [_parsed(one, self.topic) for one in whole_lines(path, offset)]


@dataclass(frozen=True)
class ReleaseJournal:
    """`releases/audit.jsonl`: moves of CURRENT that happened."""

    root: Path
    topic: Topic = RELEASE_PUBLISHED

    def files(self) -> list[Path]:
        """See `Journal`."""
        path = self.root / AUDIT
        return [path] if path.is_file() else []

    def lines(self, path: Path, offset: int) -> list[Line]:
        """See `Journal`. The last line waits until it is seen that its move happened."""
        lines = [_parsed(one, self.topic) for one in whole_lines(path, offset)]
        # NOTE: read after the lines. Then CURRENT is the last line's, or older, or that of a later line,
        # and in none of these cases is a move taken for one that happened when it did not.
        current = self._current()
        settled = [
            line._replace(abandoned=True) if _came_to_nothing(line, following) else line
            for line, following in itertools.pairwise(lines)
        ]
        if lines and (lines[-1].event is None or getattr(lines[-1].event, "release_id", None) == current):
            settled.append(lines[-1])
        return settled

    def _current(self) -> str | None:
        try:
            return ReleaseStore(self.root).pointer()
        except (Refused, OSError) as error:
            log.warning("the last move of %s waits: %s", self.root / AUDIT, error)
            return None


class Trail(Protocol):
    """What a `TrailJournal` needs of an object store."""

    def last_move(self) -> int:
        """Number of the newest move, 0 for none. Raises RetryableError or Refused."""
        ...

    def write_trail(self, path: Path) -> None:
        """Put every move that happened into a file. Raises RetryableError or Refused."""
        ...


class TrailJournal:
    """The audit trail of an object store, as a file here.

    Moves are only ever added to it, so positions in the file stay what they were. The store is asked every
    `poll_seconds` at most, and the file written when there is a new move.
    """

    topic: Topic = RELEASE_PUBLISHED

    def __init__(
        self, path: Path, trail: Trail, poll_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._trail, self._poll_seconds, self._clock = path, trail, poll_seconds, clock
        self._next_ask = clock()
        self._written: int | None = None
        """The move up to which this process has written the file; None before it has."""

    def files(self) -> list[Path]:
        """See `Journal`. While the store cannot be reached the file is what it was."""
        if self._clock() >= self._next_ask:
            try:
                self._follow()
            except (Refused, RetryableError) as error:
                log.warning("moves of releases wait: %s", error)
            # From the answer on: a store that is away takes seconds to say so.
            self._next_ask = self._clock() + self._poll_seconds
        return [self._path] if self._path.is_file() else []

    def _follow(self) -> None:
        # NOTE: asked before the trail is written: a move in between is in the file and is written once more.
        last = self._trail.last_move()
        if last != self._written or not self._path.is_file():
            self._trail.write_trail(self._path)
            self._written = last

    def lines(self, path: Path, offset: int) -> list[Line]:
        """See `Journal`."""
        return [_parsed(one, self.topic) for one in whole_lines(path, offset)]


def _came_to_nothing(line: Line, following: Line) -> bool:
    """Whether the next move began elsewhere. After a damaged line that cannot be said."""
    if line.event is None or following.event is None:
        return False
    moved_from = getattr(following.event, "previous_release_id", None)
    return bool(moved_from != getattr(line.event, "release_id", None))


def _parsed(line: Line, topic: Topic) -> Line:
    if line.reason is not None:
        return line
    try:
        return line._replace(event=decode(topic.value, line.value))
    except InvalidMessage as error:
        return line._replace(reason=error.reason, detail=error.detail)


def whole_lines(path: Path, offset: int, chunk_bytes: int = CHUNK_BYTES) -> list[Line]:
    """Lines with their break from `offset` on; [] when there is none, or the file is gone.

    Of a line longer than a chunk only its beginning is kept; it comes alone, with its reason.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            text = file.read(chunk_bytes)
            if len(text) == chunk_bytes and b"\n" not in text:
                return _endless(file, offset, text)
    except FileNotFoundError:
        return []
    return list(_cut(text, offset))


def _cut(text: bytes, offset: int) -> Iterator[Line]:
    for part in text.split(b"\n")[:-1]:
        yield Line(offset, len(part) + 1, part)
        offset += len(part) + 1


def _endless(file: BinaryIO, offset: int, beginning: bytes) -> list[Line]:
    """The line that fills a chunk, if it ends anywhere."""
    size = len(beginning)
    while more := file.read(CHUNK_BYTES):
        place = more.find(b"\n")
        if place >= 0:
            detail = f"a line of {size + place} bytes"
            return [Line(offset, size + place + 1, beginning, None, DeadLetterReason.TOO_LARGE, detail)]
        size += len(more)
    return []


def head_of(path: Path, offset: int) -> str:
    """What tells this file from another of its name: a hash of its beginning, as far as it was sent.

    Empty when the file is gone.
    """
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(min(offset, _HEAD_BYTES))).hexdigest()
    except FileNotFoundError:
        return ""


def line_key(event: Any) -> bytes:
    """Kafka key of an event of these topics."""
    key = event.release_id if event.type_name == RELEASE_PUBLISHED.name else event.request_id
    return str(key).encode()


def event_time_ms(event: Any) -> int:
    """When it happened."""
    time_ms: int = getattr(event, "served_at_ms", None) or event.occurred_at_ms
    return time_ms


def journals(logs: Path, releases: Path) -> Sequence[Journal]:
    """The journals of a data directory; they need not be there yet."""
    return (ReleaseJournal(releases), RankingJournal(logs))
