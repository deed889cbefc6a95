"""Named checks over files of events: what is wrong, how often, and where to look."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from schemas.cloudevents import iso
from schemas.errors import DeadLetterReason, InvalidMessage, Refused
from schemas.times import DAY_MS
from schemas.topics import PIN_CHANGED, TOPICS

from .event_decoding import EventDecoder
from .event_lines import Block, Events, part
from .sources import Ints

MAX_EXAMPLES = 10
OLDEST_MS = 946_684_800_000
"""2000-01-01: nothing that we hear about is older; times in seconds fall before it."""
_NOT_NESTED = "windows are nested"
"""In what schemas.events says of windows that fall."""

CHECKS = {
    "decode": "every line is a JSON object of at most 256 KiB",
    "topic": "every line belongs to a topic of ours",
    "schema": "every event is valid by its topic's schema",
    "windows": "1/7/30/90-day counts do not fall",
    "key": "the key is the Pin id as text",
    "times": "times are between 2000 and tomorrow, and ads end after they start",
    "duplicates": "no event stands twice (source and id, or the whole line where it has none)",
    "pins": "every Pin that is told about has a pin.changed.v1 event",
}


@dataclass
class Check:
    """One check: how many lines failed, with the first few. `skipped` says why it could not be made."""

    name: str
    failed: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)
    skipped: str = ""

    def fail(self, line: int, detail: str) -> None:
        """One more line that fails."""
        self.failed += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append((line, detail))

    @property
    def result(self) -> str:
        """PASS, FAIL or SKIP."""
        return "FAIL" if self.failed else "SKIP" if self.skipped else "PASS"


@dataclass
class _Pins:
    """Distinct Pins per block, and the first line of each."""

    ids: list[Ints] = field(default_factory=list)
    lines: list[Ints] = field(default_factory=list)

    def add(self, ids: Ints, lines: Ints) -> None:
        distinct, first = np.unique(ids, return_index=True)
        self.ids.append(distinct)
        self.lines.append(lines[first])

    def table(self) -> tuple[Ints, Ints]:
        """Distinct Pins and their first lines."""
        if not self.ids:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        distinct, first = np.unique(np.concatenate(self.ids), return_index=True)
        return distinct, np.concatenate(self.lines)[first]


class EventChecks:
    """Takes the blocks of a file in order; `results` closes the books.

    Holds 16 bytes per line (the hash of what names an event, and its line) and the distinct Pins.
    """

    def __init__(self, topic: str | None, now_ms: int) -> None:
        """`topic`: of the lines that name none. Raises Refused for one that is none of ours."""
        if topic is not None and topic not in TOPICS:
            raise Refused(
                "unknown_topic", f"one of {', '.join(TOPICS)}", repr(topic), "`skewless schema` lists them."
            )
        self._topic, self._latest_ms = topic, now_ms + DAY_MS
        self._checks = {name: Check(name) for name in CHECKS}
        self._decoders: dict[str, EventDecoder] = {}
        self._hashes: list[Ints] = []
        self._hashed_lines: list[Ints] = []
        self._told, self._changed = _Pins(), _Pins()
        self._keys = 0
        self.events: dict[str, int] = {}
        """Topic -> valid events."""

    def add(self, block: Block) -> None:
        """Check the lines of one block."""
        parted = part(block.lines, block.first_line, self._topic)
        for line, why in parted.undecodable:
            self._checks["decode"].fail(line, why)
        for topic, events in parted.events.items():
            self._name(events)
            if topic in TOPICS:
                self._add_events(topic, events)
                continue
            why = f"{topic!r} is none of ours" if topic else "no topic: name it in the line or by --topic"
            for line in events.line_numbers:
                self._checks["topic"].fail(line, why)

    def _name(self, events: Events) -> None:
        self._hashes.append(np.fromiter(map(hash, events.names), np.int64, len(events.names)))
        self._hashed_lines.append(np.array(events.line_numbers, np.int64))

    def _add_events(self, topic: str, events: Events) -> None:
        decoder = self._decoders.setdefault(topic, EventDecoder(TOPICS[topic]))
        decoded = decoder.decode(events.values)
        for row, error in decoded.invalid:
            self._checks[_check_of(error)].fail(events.line_numbers[row], error.detail)
        rows, columns = decoded.table()
        lines = np.array(events.line_numbers, np.int64)[rows]
        self.events[topic] = self.events.get(topic, 0) + len(rows)
        self._check_times(lines, columns)
        if TOPICS[topic].key == "pin_id":
            self._check_keys(events, rows, columns["pin_id"])
            pins = self._changed if topic == PIN_CHANGED.name else self._told
            pins.add(columns["pin_id"], lines)

    def _check_keys(self, events: Events, rows: Ints, pin_ids: Ints) -> None:
        if not any(events.has_key):
            return
        for row, pin in zip(rows.tolist(), pin_ids.tolist(), strict=True):
            if not events.has_key[row]:
                continue
            self._keys += 1
            key = events.keys[row]
            if key != b"%d" % pin:
                came = None if key is None else key.decode("utf-8", "replace")[:64]
                self._checks["key"].fail(events.line_numbers[row], f"key {came!r}, pin_id {pin}")

    def _check_times(self, lines: Ints, columns: dict[str, Ints]) -> None:
        when, starts, ends = columns["occurred_at_ms"], columns["starts_at_ms"], columns["ends_at_ms"]
        odd = (when >= 0) & ((when < OLDEST_MS) | (when > self._latest_ms))
        for place in np.flatnonzero(odd).tolist():
            came = int(when[place])
            in_seconds = OLDEST_MS <= came * 1000 <= self._latest_ms
            hint = ": seconds instead of milliseconds?" if in_seconds else ""
            self._checks["times"].fail(int(lines[place]), f"occurred_at_ms {came} is {iso(came)}{hint}")
        # An end of 0 means never.
        for place in np.flatnonzero((starts >= 0) & (ends > 0) & (ends <= starts) & ~odd).tolist():
            self._checks["times"].fail(
                int(lines[place]), f"ends_at_ms {ends[place]} is not after starts_at_ms {starts[place]}"
            )

    def results(self) -> list[Check]:
        """All checks, in order."""
        self._check_duplicates()
        self._check_pins()
        if not self._keys:
            self._checks["key"].skipped = "no line has a key"
        return list(self._checks.values())

    def _check_duplicates(self) -> None:
        if not self._hashes:
            return
        hashes, lines = np.concatenate(self._hashes), np.concatenate(self._hashed_lines)
        order = np.lexsort((lines, hashes))
        same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        pairs = sorted(zip(lines[order][same + 1].tolist(), lines[order][same].tolist(), strict=True))
        _fail_all(self._checks["duplicates"], ((line, f"as line {first}") for line, first in pairs))

    def _check_pins(self) -> None:
        told, first_lines = self._told.table()
        changed, _ = self._changed.table()
        if not len(told) or not len(changed):
            self._checks["pins"].skipped = (
                "the file holds no pin.changed.v1" if len(told) else "nothing tells about Pins but changes"
            )
            return
        unknown = ~np.isin(told, changed)
        found = sorted(zip(first_lines[unknown].tolist(), told[unknown].tolist(), strict=True))
        _fail_all(self._checks["pins"], ((line, f"Pin {pin} has none") for line, pin in found))


def _fail_all(check: Check, failures: Iterable[tuple[int, str]]) -> None:
    for line, detail in failures:
        check.fail(line, detail)


def _check_of(error: InvalidMessage) -> str:
    if error.reason is not DeadLetterReason.SCHEMA_INVALID:
        return "decode"
    return "windows" if _NOT_NESTED in error.detail else "schema"
