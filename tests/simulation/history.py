"""The one checker: what was sent, written, committed and read in a run, against the oracle.

Kinds of violation: `lost`, `wrong_value`, `duplicate`, `phantom`, `stale_after_fresh`,
`committed_not_delivered`, `letter_missing`, `letter_phantom`, `untrue_checkpoint`, `restored_wrong`,
`untrue_tower`, `live_not_named`, `stuck`, `crashed`.
"""

import base64
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from features.store import RecordStore
from index.embedding_table import EmbeddingTable
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED, PIN_EMBEDDED, PIN_FEATURES, STATE_CHECKPOINTED
from streams.embedded_batches import EmbeddedDecoder, Message

from .oracle import STATUS, Oracle
from .sim_group import Place
from .sim_log import SimMessage, SimTopics
from .sim_towers import DIMENSION

_SOURCES = (PIN_CHANGED.name, PIN_AGGREGATED.name)
_STATUS_NAMES = {code: name for name, code in STATUS.items()} | {0: "active"}
_STATE_FIELDS = (
    "occurred_at_ms",
    "ingested_at_ms",
    "advertiser_id",
    "price_micros",
    "bid_micros",
    "daily_budget_micros",
    "starts_at_ms",
    "ends_at_ms",
    "coupons",
    "offsite_visits",
    "engagements",
)
_LISTS = {"coupons": 3, "offsite_visits": 4, "engagements": 4}


CRASHED = "crashed"
"""The kind of a process that failed in a way in which none may."""


@dataclass(frozen=True)
class Violation:
    """One broken promise."""

    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass
class SnapshotReader:
    """Folds pin.embedded.v1 as the cutter does; `reads` from where it was, or from the beginning."""

    topics: SimTopics
    decoder: EmbeddedDecoder
    versions: tuple[str, ...]
    positions: list[int] = field(default_factory=list)
    table: EmbeddingTable = field(default_factory=EmbeddingTable)
    letters: int = 0

    def __post_init__(self) -> None:
        self.positions = [0] * self.topics.partitions
        self.table.keep(dict.fromkeys(self.versions, DIMENSION))

    def read_on(self) -> None:
        """Read to the ends."""
        found: list[SimMessage] = []
        for log in self.topics.of(PIN_EMBEDDED.name):
            found += log.read(self.positions[log.partition], 1 << 30)
            self.positions[log.partition] = log.high
        self._apply(found)

    def read_again(self, rng: random.Random) -> None:
        """A span of old rows once more, as after a rewind: it must change nothing."""
        found: list[SimMessage] = []
        for log in self.topics.of(PIN_EMBEDDED.name):
            first = rng.randint(0, self.positions[log.partition])
            found += log.read(first, rng.randint(0, 5))
        self._apply(found)

    def _apply(self, found: Sequence[SimMessage]) -> None:
        if found:
            messages = [
                Message(one.its_partition, one.its_offset, one.its_timestamp_ms, one.its_key, one.its_value)
                for one in found
            ]
            decoded = self.decoder.decode(messages, dict.fromkeys(self.versions, DIMENSION))
            self.letters += len(decoded.letters)
            self.table.apply(decoded.batch)

    def rows(self, version: str) -> list[dict[str, Any]]:
        """The rows of a version in the oracle's form."""
        rows = self.table.rows(version)
        names = [name for name in rows.attributes.dtype.names or () if name != "status"]
        found = []
        for place, title in enumerate(rows.titles.to_pylist()):
            one = rows.attributes[place]
            row: dict[str, Any] = {name: int(one[name]) for name in names}
            row |= {"status": _STATUS_NAMES[int(one["status"])], "title": title, "tower_version": version}
            found.append(row | {"vector": rows.vectors[place].astype("<f2").tobytes()})
        return found


@dataclass
class History:
    """Collects violations of one run."""

    topics: SimTopics
    oracle: Oracle = field(default_factory=Oracle)
    violations: list[Violation] = field(default_factory=list)
    _freshest: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)

    def complain(self, kind: str, what: str) -> None:
        """Note a violation."""
        self.violations.append(Violation(kind, what))

    def check_snapshot(self, reader: SnapshotReader, version: str, committed: Mapping[Place, int]) -> None:
        """A snapshot at any moment: no Pin twice, every row one that was true, none older than before.

        Everything that the group had committed before it was read is in it.
        """
        rows = reader.rows(version)
        pins = [row["pin_id"] for row in rows]
        if len(set(pins)) != len(pins):
            self.complain("duplicate", f"{pins} in one snapshot")
        for row in rows:
            self._check_row("a snapshot", row)
            at = (row["changed_offset"], row["aggregated_offset"])
            before = self._freshest.get((version, row["pin_id"]), (-1, -1))
            # As readers order rows. One source may fall back while another goes on: a worker that takes
            # over events which are not committed may fold the two sources in another order.
            if (sum(at), at) < (sum(before), before):
                self.complain("stale_after_fresh", f"Pin {row['pin_id']} was at {before}, is at {at}")
            self._freshest[version, row["pin_id"]] = at
        self._check_covered(version, committed)

    def _check_covered(self, version: str, committed: Mapping[Place, int]) -> None:
        for pin in self.oracle.embedded_pins:
            number = self.oracle.partition[pin]
            offsets = committed.get((_SOURCES[0], number), 0), committed.get((_SOURCES[1], number), 0)
            needed = self.oracle.last(pin, offsets)
            has = self._freshest.get((version, pin), (-1, -1))
            # A row of a worker that died before its commit may be ahead in one source and behind in the
            # other, and hides what its successor makes until that has caught up.
            is_ahead = has[0] >= offsets[0] or has[1] >= offsets[1]
            if not is_ahead and (has[0] < needed[0] or has[1] < needed[1]):
                self.complain("committed_not_delivered", f"Pin {pin} is at {has}, {needed} is committed")

    def _check_row(self, where: str, row: Mapping[str, Any]) -> None:
        pin, at = row["pin_id"], (row["changed_offset"], row["aggregated_offset"])
        expected = self.oracle.row(row["tower_version"], pin, *at)
        if expected is None:
            self.complain("phantom", f"Pin {pin} at {at} in {where}: there are no such events")
        elif row != expected:
            differs = {
                name: (row.get(name), expected[name]) for name in expected if row.get(name) != expected[name]
            }
            self.complain("wrong_value", f"Pin {pin} at {at} in {where}: {differs}")

    def check_every_row(self) -> None:
        """All rows that were ever on pin.embedded.v1, whoever wrote them."""
        for log in self.topics.of(PIN_EMBEDDED.name):
            for message in log.history:
                row = orjson.loads(message.its_value or b"")
                row["vector"] = base64.b64decode(row["vector"])
                self._check_row(f"row {message.its_partition}@{message.its_offset}", row)
                if self.oracle.partition.get(row["pin_id"]) != message.its_partition:
                    self.complain("phantom", f"Pin {row['pin_id']} on partition {message.its_partition}")
                if not self.oracle.embeds(row["pin_id"]):
                    self.complain("phantom", f"a row of Pin {row['pin_id']}, which is of a batch tier")

    def check_newest(self, reader: SnapshotReader, version: str, where: str) -> None:
        """At rest: one row per Pin, at its newest events."""
        at = {
            row["pin_id"]: (row["changed_offset"], row["aggregated_offset"]) for row in reader.rows(version)
        }
        for pin in self.oracle.embedded_pins:
            if at.get(pin) != self.oracle.last(pin):
                self.complain(
                    "lost", f"Pin {pin} is at {at.get(pin)} in {where}, not at {self.oracle.last(pin)}"
                )
        for row in reader.rows(version):
            self._check_row(where, row)
        if reader.letters:
            self.complain("wrong_value", f"{reader.letters} rows of {where} cannot be read")

    def check_letters(self) -> None:
        """Every poison message has its letter with its bytes and headers; nothing else has one."""
        told: dict[tuple[str, int, int], SimMessage] = {}
        for topic in _SOURCES:
            for log in self.topics.of(topic + ".dlq"):
                for letter in log.history:
                    story = {name: (value or b"").decode() for name, value in letter.its_headers or ()}
                    place = (story["x-dlq-topic"], int(story["x-dlq-partition"]), int(story["x-dlq-offset"]))
                    told[place] = letter
        for place, message in self.oracle.poison.items():
            if (found := told.pop(place, None)) is None:
                self.complain("letter_missing", f"{place} {message.its_value!r}")
            elif not _carries(found, message):
                self.complain("letter_missing", f"the letter of {place} has other bytes or headers")
        for place in told:
            self.complain("letter_phantom", f"{place} is no poison")

    def check_states(self) -> None:
        """Every state row is one that was true; every checkpoint says what is so."""
        for number in range(self.topics.partitions):
            held: list[tuple[int, int, int, int]] = []
            for message in self.topics.log(PIN_FEATURES.name, number).history:
                state = orjson.loads(message.its_value or b"")
                held.append(
                    (message.its_offset, state["pin_id"], state["changed_offset"], state["aggregated_offset"])
                )
                state["status"] = _STATUS_NAMES[state["status"]] if state.get("status") else None
                self._check_state(f"state row {number}@{message.its_offset}", state)
            for message in self.topics.log(STATE_CHECKPOINTED.name, number).history:
                self._check_checkpoint(number, orjson.loads(message.its_value or b""), held)

    def _check_state(self, where: str, state: Mapping[str, Any]) -> None:
        pin, at = state["pin_id"], (state["changed_offset"], state["aggregated_offset"])
        expected = self.oracle.state(pin, *at)
        if expected is None:
            self.complain("phantom", f"Pin {pin} at {at} in {where}: there are no such events")
            return
        for name in _STATE_FIELDS:
            blank: Any = [0] * _LISTS[name] if name in _LISTS else 0
            if (state.get(name) or blank) != expected.get(name, blank):
                self.complain("wrong_value", f"Pin {pin} at {at} in {where}: {name} is {state.get(name)}")
        for name in ("title", "status"):
            if (state.get(name) or None) != expected.get(name):
                self.complain("wrong_value", f"Pin {pin} at {at} in {where}: {name} is {state.get(name)}")

    def _check_checkpoint(
        self, number: int, said: Mapping[str, Any], held: Iterable[tuple[int, int, int, int]]
    ) -> None:
        covers = said["covers"].get(_SOURCES[0], 0), said["covers"].get(_SOURCES[1], 0)
        newest: dict[int, tuple[int, int]] = {}
        for offset, pin, changed, aggregated in held:
            if offset < said["state_offset"]:
                known = newest.get(pin, (-1, -1))
                newest[pin] = max(known[0], changed), max(known[1], aggregated)
        for pin in [one for one in self.oracle.pins if self.oracle.partition[one] == number]:
            needed, has = self.oracle.last(pin, covers), newest.get(pin, (-1, -1))
            if has[0] < needed[0] or has[1] < needed[1]:
                self.complain("untrue_checkpoint", f"{number}: Pin {pin} is at {has}, it covers {needed}")

    def check_restored(self, store: RecordStore) -> None:
        """The store of a worker that lost its disk and has all partitions equals the oracle."""
        records, found, tails = store.get_many(np.array(self.oracle.pins, np.int64))
        for record, is_there, tail in zip(records, found.tolist(), tails, strict=True):
            if not is_there:
                self.complain("restored_wrong", "a Pin is not in the restored state")
                continue
            state = {
                name: record[name].tolist()
                for name in (*_STATE_FIELDS, "pin_id", "changed_offset", "aggregated_offset")
            }
            state["status"] = _STATUS_NAMES[int(record["status"])] if record["status"] else None
            state["title"] = orjson.loads(tail) if tail else None
            at = (state["changed_offset"], state["aggregated_offset"])
            if at != self.oracle.last(state["pin_id"]):
                self.complain("restored_wrong", f"Pin {state['pin_id']} is at {at}")
            self._check_state("the restored state", state)


def _carries(letter: SimMessage, message: SimMessage) -> bool:
    original = [pair for pair in letter.its_headers or () if not pair[0].startswith("x-dlq-")]
    return (letter.its_key, letter.its_value, original) == (
        message.its_key,
        message.its_value,
        list(message.its_headers or ()),
    )
