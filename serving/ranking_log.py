"""The ranking log: JSON lines that hold what is needed to recount every answer.

The request path only appends to a bounded queue; a writer thread makes the rows and writes them. A full
queue loses rows, says how many, and never makes a request wait.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from schemas.codec import decode, encode
from schemas.errors import InvalidMessage
from schemas.logs import RankingLog

from .answers import log_of
from .ranked import Ranked

log = logging.getLogger(__name__)

PREFIX, SUFFIX = "ranking-", ".jsonl"
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
        self._queue.append(ranked)

    def close(self) -> None:
        """Write what is queued and stop. Harmless when called again."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            pause = 0.0 if self._write_burst() == _BURST else self._limits.pause_seconds
            self._closing.wait(pause)
        while self._write_burst():
            pass
        self._finish_file()

    def _write_burst(self) -> int:
        """Write up to `_BURST` rows and hand them to the operating system; returns how many."""
        rows = [self._queue.popleft() for _ in range(min(len(self._queue), _BURST))]
        if rows:
            try:
                self._write(rows)
            except OSError as error:
                # A full disk may have room again: what is lost is counted, the thread lives on.
                self._lose(len(rows), error)
        return len(rows)

    def _write(self, rows: list[Ranked]) -> None:
        file = self._file or self._next_file()
        file.write(b"".join(encode(log_of(ranked)) + b"\n" for ranked in rows))
        file.flush()
        self.written += len(rows)
        if file.tell() >= self._limits.file_bytes:
            self._finish_file()

    def _lose(self, rows: int, error: OSError) -> None:
        """Count rows that could not be written, and leave their file, whose last line may be torn."""
        log.error("%d rows of the ranking log are lost: %s", rows, error)
        self.dropped += rows
        for _ in range(rows):
            self._on_drop()
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
        self._file = (self._directory / f"{PREFIX}{number:06d}{SUFFIX}").open("xb")
        return self._file

    def _finish_file(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def _number(path: Path) -> int:
    return int(path.name[len(PREFIX) : -len(SUFFIX)])


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{PREFIX}[0-9]*{SUFFIX}"), key=_number)


def read_ranking_log(directory: Path) -> Iterator[RankingLog]:
    """Every row, oldest first. A torn last line, which a killed server leaves, is passed over.

    Raises InvalidMessage, which says where, for any other line that is no `RankingLog`.
    """
    for path in _files(directory):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    continue
                try:
                    yield decode(RankingLog, line)
                except InvalidMessage as error:
                    raise InvalidMessage(error.reason, f"{path}, line {number}: {error.detail}") from error


class Recount(NamedTuple):
    """Counted again from the log alone: answers, (query, Pin) pairs, and pairs of two tower versions."""

    responses: int
    pairs: int
    mixed: int


def recount_mixed(directory: Path) -> Recount:
    """Count mixed-version pairs from the ranking log. The promise is that `mixed` is 0."""
    responses = pairs = mixed = 0
    for row in read_ranking_log(directory):
        responses += 1
        pairs += len(row.ads)
        mixed += row.mixed_pairs()
    return Recount(responses, pairs, mixed)
