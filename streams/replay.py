"""Replays recorded events to Kafka: as fast as their consumers keep up, and on from where it stopped.

The embedded broker evicts what its consumers have not read in time, so a replay waits whenever they
are more than `max_lag` events behind. How far it got is kept in a file; after a crash it repeats what
was not acknowledged, which is harmless: the fold passes over nothing new, and the last change wins.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from schemas.artefacts import write_atomic
from schemas.errors import Refused

SLICE = 5_000
"""Events that are encoded, sent and acknowledged at a time."""

Frames = Iterable[tuple[str, pl.DataFrame]]
"""(topic, events in time order); each run of a replay has to give the same frames in the same order."""


@dataclass(frozen=True)
class Position:
    """Frames that are done, and the acknowledged events of the one after them; `events` counts them all."""

    frame: int = 0
    row: int = 0
    events: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a replay is. `eta_seconds` is None when nobody said how many events there are."""

    events: int
    total: int | None
    events_per_second: float
    waited_seconds: float
    eta_seconds: float | None


@dataclass(frozen=True)
class Pace:
    """When to wait: above `max_lag` events between what is produced and what consumers have done."""

    max_lag: int = 50_000
    poll_seconds: float = 0.05

    def has_room(self, lag: float) -> bool:
        """Whether a slice may be sent now. One always may when there is no lag at all."""
        return lag + SLICE <= max(self.max_lag, SLICE)


class Sink(Protocol):
    """Where events go."""

    def send(self, topic: str, keys: list[bytes], values: list[bytes]) -> None:
        """Send events in order and return when all are acknowledged; raise when one cannot be."""
        ...

    def lag(self) -> int:
        """Acknowledged events that consumers have not done yet."""
        ...


@dataclass(frozen=True)
class Timing:
    """The clock (monotonic seconds) and how to wait on it."""

    clock: Callable[[], float]
    sleep: Callable[[float], None]


def encode_events(frame: pl.DataFrame) -> tuple[list[bytes], list[bytes]]:
    """Keys and JSON values of a frame with PinChanged or PinAggregated columns; nulls are left out.

    Rows that set the same columns are encoded together, without a Python loop over fields.
    """
    keys = frame["pin_id"].cast(pl.String).cast(pl.Binary).to_list()
    filled = [name for name in frame.columns if frame[name].null_count() == 0]
    partial = [name for name in frame.columns if 0 < frame[name].null_count() < frame.height]
    if not partial:
        return keys, _lines(frame.select(filled))
    values: list[bytes] = [b""] * frame.height
    marked = frame.with_row_index("#").with_columns(_presence(partial).alias("@"))
    for (mask,), group in marked.group_by("@", maintain_order=True):
        present = [name for bit, name in enumerate(partial) if int(str(mask)) >> bit & 1]
        columns = [name for name in frame.columns if name in filled or name in present]
        for row, line in zip(group["#"].to_list(), _lines(group.select(columns)), strict=True):
            values[row] = line
    return keys, values


def _presence(names: list[str]) -> pl.Expr:
    """One bit per column: set where it is not null."""
    return pl.sum_horizontal(
        pl.col(name).is_not_null().cast(pl.UInt64) * (1 << bit) for bit, name in enumerate(names)
    )


def _lines(frame: pl.DataFrame) -> list[bytes]:
    return frame.write_ndjson().encode("utf-8").split(b"\n")[:-1]


def replay(
    frames: Frames,
    sink: Sink,
    position_file: Path | None,
    timing: Timing,
    *,
    pace: Pace | None = None,
    total: int | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Position:
    """Send every event that the position file does not have as sent. Returns where it ended.

    Raises Refused when the position file belongs to other frames, and what the sink raises.
    """
    position = read_position(position_file) if position_file else Position()
    meter = _Meter(timing, position.events, total)
    for topic, frame in _from(frames, position):
        while position.row < frame.height:
            meter.wait_for_room(sink, pace or Pace())
            part = frame[position.row : position.row + SLICE]
            sink.send(topic, *encode_events(part))
            meter.sent(part.height)
            position = Position(position.frame, position.row + part.height, position.events + part.height)
            if position_file:
                write_position(position_file, position)
            on_progress(meter.progress(position.events))
        position = Position(position.frame + 1, 0, position.events)
    if position_file:
        write_position(position_file, position)
    return position


def _from(frames: Frames, position: Position) -> Iterator[tuple[str, pl.DataFrame]]:
    number = -1
    for number, (topic, frame) in enumerate(frames):
        if number < position.frame:
            continue
        if number == position.frame and position.row > frame.height:
            raise _other_frames(position, f"frame {number} of {frame.height} events")
        yield topic, frame
    if position.frame > number + 1:
        raise _other_frames(position, f"{number + 1} frames")


def _other_frames(position: Position, came: str) -> Refused:
    return Refused(
        "replay_position",
        expected=f"the events that the replay stopped in: frame {position.frame}, row {position.row}",
        came=came,
        fix="Delete the position file to replay from the start; events that were sent already do no harm.",
    )


class _Meter:
    """Times a replay, and waits."""

    def __init__(self, timing: Timing, sent_before: int, total: int | None) -> None:
        self._timing, self._total = timing, total
        self._sent_before, self._begun = sent_before, timing.clock()
        self._waited_seconds = 0.0
        self._lag_at_most: float = math.inf

    def sent(self, events: int) -> None:
        self._lag_at_most += events

    def wait_for_room(self, sink: Sink, pace: Pace) -> None:
        """Consumers only shorten the lag, so it is asked for (many requests) only when it may be too long."""
        if pace.has_room(self._lag_at_most):
            return
        while not pace.has_room(lag := sink.lag()):
            self._timing.sleep(pace.poll_seconds)
            self._waited_seconds += pace.poll_seconds
        self._lag_at_most = lag

    def progress(self, events: int) -> Progress:
        elapsed = self._timing.clock() - self._begun
        rate = (events - self._sent_before) / elapsed if elapsed > 0 else 0.0
        left = None if self._total is None else max(self._total - events, 0)
        return Progress(
            events=events,
            total=self._total,
            events_per_second=rate,
            waited_seconds=self._waited_seconds,
            eta_seconds=left / rate if left is not None and rate > 0 else None,
        )


def read_position(path: Path) -> Position:
    """Where the last run stopped; the beginning when there was none. Raises Refused for another file."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return Position(int(fields["frame"]), int(fields["row"]), int(fields["events"]))
    except FileNotFoundError:
        return Position()
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            "replay_position",
            expected=f"a replay's position in {path}",
            came=repr(error),
            fix="Delete the file to replay from the start.",
        ) from error


def write_position(path: Path, position: Position) -> None:
    """Replace the file in one step: a reader sees the old position or the new one."""
    write_atomic(path, json.dumps(asdict(position)).encode())
