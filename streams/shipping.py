"""Journal lines onto Kafka, at least once: the shipper, its position, and its counts.

A position moves when the broker has acknowledged everything before it, and is on disk before the next
line is read. So a crash at any moment repeats lines and loses none. The CloudEvents id of a line is its
file and offset: a repeated one can be told by it.
"""

import fcntl
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from schemas.artefacts import write_atomic
from schemas.cloudevents import cloudevent_headers
from schemas.errors import Refused, RetryableError

from .dead_letters import PREFIX, Headers
from .journals import Journal, Line, event_time_ms, head_of, line_key

log = logging.getLogger(__name__)

_LONGEST_BACKOFF_SECONDS = 30.0
_CUT_BYTES = 65_536


Listed = Sequence[tuple[Journal, Sequence[Path]]]
"""Journals, each with its files."""


class Sender(Protocol):
    """What the shipper needs of a Kafka producer."""

    def cluster_id(self) -> str:
        """Which cluster this is. Raises RetryableError when it is out of reach."""
        ...

    def send(self, topic: str, key: bytes | None, value: bytes, headers: Headers) -> None:
        """Queue one message."""
        ...

    def wait(self) -> None:
        """Return when the broker has everything. Raises RetryableError when it does not take it."""
        ...


@dataclass
class ShipCounts:
    """What a shipper has done, and what is left."""

    shipped: dict[str, int] = field(default_factory=dict)
    """Topic -> lines that the broker has."""
    dead_letters: int = 0
    abandoned_moves: int = 0
    retries: int = 0
    shipped_bytes: int = 0
    waiting_bytes: int = 0
    """In files that are there, behind the positions: half-written lines too."""


@dataclass(frozen=True)
class ShipperSettings:
    """`source`: CloudEvents source of the lines, such as `//host/skewless`. Times in seconds."""

    position_file: Path
    source: str
    poll_seconds: float = 0.2
    backoff_seconds: float = 1.0


@dataclass
class _Place:
    offset: int = 0
    head: str = ""


class JournalShipper:
    """Follows journals. A context manager: one process at a time may ship from a position file.

    Raises Refused (`already_shipping`) when another does.
    """

    def __init__(self, journals: Sequence[Journal], sender: Sender, settings: ShipperSettings) -> None:
        self._journals, self._sender, self._settings = journals, sender, settings
        self._cluster: str | None = None
        self._places: dict[str, _Place] = {}
        self._known_inodes: dict[str, int] = {}
        self.counts = ShipCounts()

    @contextmanager
    def locked(self) -> Iterator["JournalShipper"]:
        """Hold the position file against other shippers."""
        path = self._settings.position_file.with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as taken:
                fix = "End that one, or give this one another data directory."
                raise Refused("already_shipping", "no other shipper", f"one holds {path}", fix) from taken
            yield self

    def ship_once(
        self,
        notice: Callable[[ShipCounts], None] = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> int:
        """Ship everything that is whole now, until stopped; returns how many lines that was.

        What is written meanwhile is left, so it ends however fast a server writes. Raises RetryableError.
        """
        self._connect()
        # Once: a journal may have to ask a store for its list.
        listed = [(journal, journal.files()) for journal in self._journals]
        ends, total = _sizes(listed), 0
        while not stopped() and (shipped := self._round(listed, ends, stopped)):
            total += shipped
            notice(self.counts)
        return total

    def run(
        self,
        stopped: Callable[[], bool],
        wait: Callable[[float], object],
        notice: Callable[[ShipCounts], None] = lambda _: None,
    ) -> None:
        """Ship until stopped; a broker that is away is waited for. `wait` takes seconds."""
        pause = self._settings.backoff_seconds
        while not stopped():
            try:
                self.ship_once(notice, stopped)
                pause = self._settings.backoff_seconds
                wait(self._settings.poll_seconds)
            except RetryableError as error:
                log.warning("trying again in %.0f s: %s", pause, error)
                self.counts.retries += 1
                # Whoever answers next may be another cluster.
                self._cluster = None
                wait(pause)
                pause = min(2 * pause, _LONGEST_BACKOFF_SECONDS)

    def _connect(self) -> None:
        """Read the positions; those of another cluster are none of this one's."""
        if self._cluster is not None:
            return
        cluster = self._sender.cluster_id()
        owner, self._places = _read_places(self._settings.position_file)
        if owner != cluster and self._places:
            log.warning("the positions are of cluster %s, this is %s: from the beginning", owner, cluster)
            self._places = {}
        self._cluster = cluster

    def _round(self, listed: Listed, ends: Mapping[str, int], stopped: Callable[[], bool]) -> int:
        """One chunk of every file, of lines that begin before its end.

        On return everything is acknowledged and the positions are on disk.
        """
        present: dict[str, _Place] = {}
        done = 0
        # Counted only once the broker has it: a round that fails is repeated.
        tally = ShipCounts(self.counts.shipped.copy(), self.counts.dead_letters, self.counts.abandoned_moves)
        for journal, paths in listed:
            # One that was deleted since the list was made is forgotten, as if it had not been on it.
            for path in filter(Path.is_file, paths):
                name = _name(journal, path)
                place = self._place(name, path)
                present[name] = place
                end = ends.get(name, 0)
                if stopped() or min(end, _size_and_inode(path)[0]) <= place.offset:
                    continue
                lines = [line for line in journal.lines(path, place.offset) if line.offset < end]
                for line in lines:
                    self._send(journal, path, line, tally)
                done += len(lines)
                present[name] = _after(place, lines, path)
        self._settle(present, tally, done)
        self.counts.waiting_bytes = self._waiting(listed)
        return done

    def _settle(self, places: dict[str, _Place], tally: ShipCounts, done: int) -> None:
        if done:
            self._sender.wait()
            _write_places(self._settings.position_file, self._cluster or "", places)
        moved = sum(place.offset - self._places.get(name, _Place()).offset for name, place in places.items())
        self._places = places
        self.counts.shipped, self.counts.dead_letters = tally.shipped, tally.dead_letters
        self.counts.abandoned_moves = tally.abandoned_moves
        self.counts.shipped_bytes += max(moved, 0)

    def _waiting(self, listed: Listed) -> int:
        sizes = _sizes(listed).items()
        return sum(max(size - self._places.get(name, _Place()).offset, 0) for name, size in sizes)

    def _place(self, name: str, path: Path) -> _Place:
        """Where to read on; the beginning when another file has taken the name."""
        place = self._places.get(name, _Place())
        size, inode = _size_and_inode(path)
        untouched = not place.offset or (size == place.offset and self._known_inodes.get(name) == inode)
        if not untouched and (size < place.offset or head_of(path, place.offset) != place.head):
            log.warning("%s is another file than the one that was shipped: from its beginning", path)
            place = _Place()
        self._known_inodes[name] = inode
        return place

    def _send(self, journal: Journal, path: Path, line: Line, tally: ShipCounts) -> None:
        name = journal.topic.name
        if line.abandoned:
            tally.abandoned_moves += 1
        elif line.event is None:
            tally.dead_letters += 1
            log.warning("%s at %d is no line for %s: %s", path, line.offset, name, line.detail)
            self._sender.send(journal.topic.dlq, None, line.value[:_CUT_BYTES], self._story(name, path, line))
        else:
            tally.shipped[name] = tally.shipped.get(name, 0) + 1
            self._sender.send(name, line_key(line.event), line.value, self._headers(name, path, line))

    def _headers(self, topic: str, path: Path, line: Line) -> Headers:
        at = datetime.fromtimestamp(event_time_ms(line.event) / 1000, UTC)
        return list(
            cloudevent_headers(
                event_id=f"{path.name}:{line.offset}",
                source=self._settings.source,
                type_name=topic,
                time_iso=at.isoformat(timespec="milliseconds"),
            )
        )

    def _story(self, topic: str, path: Path, line: Line) -> Headers:
        story = {
            "reason": line.reason.value if line.reason else "",
            "message": line.detail[:1000],
            "topic": topic,
            "file": path.name,
            "offset": str(line.offset),
            "stage": "ship",
            "attempts": "1",
            "worker": self._settings.source,
        }
        cut: Headers = [(f"{PREFIX}cut", b"true")] if len(line.value) > _CUT_BYTES else []
        return [
            (PREFIX + name, text.encode("utf-8", "backslashreplace")) for name, text in story.items()
        ] + cut


def _after(place: _Place, lines: Sequence[Line], path: Path) -> _Place:
    if not lines:
        return place
    offset = lines[-1].offset + lines[-1].size_bytes
    return _Place(offset, head_of(path, offset))


def _name(journal: Journal, path: Path) -> str:
    return f"{journal.topic.name}/{path.name}"


def _sizes(listed: Listed) -> dict[str, int]:
    return {_name(journal, path): _size_and_inode(path)[0] for journal, paths in listed for path in paths}


def _size_and_inode(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_ino


def _read_places(path: Path) -> tuple[str, dict[str, _Place]]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        places = {
            name: _Place(int(one["offset"]), str(one["head"])) for name, one in document["files"].items()
        }
        return str(document["cluster"]), places
    except FileNotFoundError:
        return "", {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(
            "ship_position",
            expected=f"positions of shipped files in {path}",
            came=repr(error),
            fix="Delete the file: everything that is there is shipped again, which is harmless.",
        ) from error


def _write_places(path: Path, cluster: str, places: dict[str, _Place]) -> None:
    files = {name: {"offset": place.offset, "head": place.head} for name, place in sorted(places.items())}
    write_atomic(path, json.dumps({"cluster": cluster, "files": files}, indent=1).encode())
