"""The ranking log: JSON lines that hold what is needed to recount every answer.

The request path only appends to a bounded queue; a writer thread makes the rows and writes them. A full
queue loses rows, says how many, and never makes a request wait.
"""

import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from schemas.codec import decode, encode
from schemas.errors import InvalidMessage, RetryableError
from schemas.logs import RankingLog

from .answers import log_of
from .ranked import Ranked

log = logging.getLogger(__name__)

PREFIX, SUFFIX = "ranking-", ".jsonl"
_NAME = re.compile(rf"{PREFIX}\d+{re.escape(SUFFIX)}", re.ASCII)
_BURST = 32
"""Rows written before the writer steps aside for the request path (they share the interpreter lock)."""


@dataclass(frozen=True)
class LogLimits:
    """Queue length, size at which a file is closed and the next begun, and how long the writer sleeps."""

    queue_rows: int = 20_000
    file_bytes: int = 64 << 20
    pause_seconds: float = 0.05


class RankingLogWriter:
    """Appends answered requests to `directory/ranking-<n>.jsonl`. Close it to have every row on disk."""

    def __init__(self, directory: Path, limits: LogLimits, on_drop: Callable[[], None]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.dropped = 0
        self.written = 0
        self._directory = directory
        self._limits = limits
        self._on_drop = on_drop
        self._queue: deque[Ranked] = deque()
        self._closing = threading.Event()
        self._file: BinaryIO | None = None
        self._thread = threading.Thread(target=self._run, name="ranking-log", daemon=True)
        self._thread.start()

    def append(self, ranked: Ranked) -> None:
        """Queue one answer; drops and counts it when the queue is full. Never blocks."""
        if len(self._queue) >= self._limits.queue_rows:
            self.dropped += 1
            self._on_drop()
            return
        self._queue.append(ranked.without_candidates())

    def close(self) -> None:
        """Write what is queued, count what cannot be written, and stop. Harmless when called again."""
        self._closing.set()
        self._thread.join()
        late = len(self._queue)
        if late:
            self._queue.clear()
            self._lose(late, "the log was closed before they were written")

    def _run(self) -> None:
        while not self._closing.is_set():
            pause = 0.0 if self._write_burst() == _BURST else self._limits.pause_seconds
            self._closing.wait(pause)
        while self._write_burst():
            pass
        try:
            self._finish_file()
        except OSError as error:
            log.error("the disk may not have the last rows of the ranking log: %s", error)
            self._leave_file()

    def _write_burst(self) -> int:
        """Write up to `_BURST` rows and hand them to the operating system; returns how many."""
        rows = [self._queue.popleft() for _ in range(min(len(self._queue), _BURST))]
        if rows:
            try:
                self._write(rows)
            except Exception as error:
                # NOTE: whatever it is: a log whose thread has died gets no row any more, and nobody is told.
                # These rows are counted. The next ones are tried: a full disk may have room again.
                self._lose(len(rows), repr(error))
        return len(rows)

    def _write(self, rows: list[Ranked]) -> None:
        lines = b"".join(encode(log_of(ranked)) + b"\n" for ranked in rows)
        file = self._file or self._next_file()
        file.write(lines)
        file.flush()
        self.written += len(rows)
        if file.tell() >= self._limits.file_bytes:
            self._finish_file()

    def _lose(self, rows: int, why: str) -> None:
        """Count rows that could not be written, and leave their file, whose last line may be torn."""
        log.error("%d rows of the ranking log are lost: %s", rows, why)
        self.dropped += rows
        for _ in range(rows):
            self._on_drop()
        self._leave_file()

    def _leave_file(self) -> None:
        """Close the file as it is; the next row begins another one. An empty file is deleted."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()
            with suppress(OSError):
                if not Path(file.name).stat().st_size:
                    Path(file.name).unlink()

    def _next_file(self) -> BinaryIO:
        """A new file after the last one there, so a restart never writes into an old file."""
        number = 1 + max((_number(path) for path in _files(self._directory)), default=0)
        while self._file is None:
            # Servers that share a data directory, as in a rolling restart, may want one name at one moment.
            with suppress(FileExistsError):
                self._file = (self._directory / f"{PREFIX}{number:06d}{SUFFIX}").open("xb")
            number += 1
        return self._file

    def _finish_file(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def _number(path: Path) -> int:
    return int(path.name[len(PREFIX) : -len(SUFFIX)])


def _files(directory: Path) -> list[Path]:
    """The log's files by their number. Raises OSError for a directory that cannot be listed."""
    # NOTE: Path.glob would find nothing there, and a log that nobody could read would count as a clean one.
    with os.scandir(directory) as entries:
        found = [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name)]
    return sorted(found, key=_number)


def _files_to_read(directory: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        if files := _files(directory):
            return files
    raise RetryableError(f"no ranking log in {directory}: is SKEWLESS_DATA_DIR that of the server?")


def read_ranking_log(directory: Path) -> Iterator[RankingLog]:
    """Every row, oldest first. A torn last line, which a killed server leaves, is passed over.

    Raises InvalidMessage, which says where, for any other line that is no `RankingLog`; RetryableError where
    there is no log; OSError for what cannot be listed or read.
    """
    for path in _files_to_read(directory):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    continue
                try:
                    yield decode(RankingLog, line)
                except InvalidMessage as error:
                    raise InvalidMessage(error.reason, f"{path}, line {number}: {error.detail}") from error


@dataclass(frozen=True)
class Counted:
    """Counted again from the log alone, of the answers under one version policy."""

    responses: int = 0
    pairs: int = 0
    """(Query, Pin) pairs of served ads."""
    mixed: int = 0
    """Of those, pairs of two tower versions."""
    scored: int = 0
    """Pairs that were scored, served or not."""
    mixed_scored: int = 0
    """Of those, pairs of two tower versions."""

    def plus(self, row: RankingLog) -> "Counted":
        """With one more answer."""
        return Counted(
            self.responses + 1,
            self.pairs + len(row.ads),
            self.mixed + row.mixed_pairs(),
            self.scored + sum(row.version_mix.values()),
            self.mixed_scored + row.mixed_scored(),
        )


@dataclass(frozen=True)
class Recount:
    """`enforce` is what the promise is about: nothing mixed in it. `tolerate` is labelled, not promised."""

    enforce: Counted = Counted()
    tolerate: Counted = Counted()

    @property
    def responses(self) -> int:
        """Answers under both policies."""
        return self.enforce.responses + self.tolerate.responses

    @property
    def pairs(self) -> int:
        """Pairs of served ads under both policies."""
        return self.enforce.pairs + self.tolerate.pairs

    @property
    def mixed(self) -> int:
        """Mixed pairs of served ads under both policies."""
        return self.enforce.mixed + self.tolerate.mixed

    @property
    def kept(self) -> bool:
        """Whether the promise was kept: no pair under `enforce` is mixed, served or only scored."""
        return not (self.enforce.mixed or self.enforce.mixed_scored)


def recount_mixed(directory: Path, since_ms: int = 0) -> Recount:
    """Count mixed-version pairs from the ranking log, by the policy that each answer was given under.

    Of answers served at `since_ms` or later. Raises as `read_ranking_log` does.
    """
    counted = {"enforce": Counted(), "tolerate": Counted()}
    for row in read_ranking_log(directory):
        if row.served_at_ms < since_ms:
            continue
        counted[row.version_policy] = counted[row.version_policy].plus(row)
    return Recount(**counted)
