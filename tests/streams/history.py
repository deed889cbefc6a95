"""The history of a run, and the one place where its anomalies are named and counted.

A history is what was produced to the sources, what the group says it has processed, and what was
published, each with its place in its partition. `check` knows the fold by heart, in plain Python: the
state of a Pin after its events up to (changed offset, aggregated offset) is a function of those two
numbers, so every published row can be judged, not only the last of its key.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from schemas.topics import PIN_AGGREGATED, PIN_CHANGED

Place = tuple[str, int, int]
"""(topic, partition, offset)."""

Key = tuple[int, str]
"""(Pin, tower version)."""

EXAMPLES = 10

NONE = -1
"""The offset of a source from which a Pin has had nothing."""


@dataclass(frozen=True)
class Produced:
    """A message on a source. `pin` is None for one that is no valid event; `sets`: what it changes."""

    place: Place
    occurred_at_ms: int = 0
    pin: int | None = None
    sets: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """A row of a Pin for one tower, at its place on pin.embedded.v1; `fields`: what it says of the Pin."""

    partition: int
    offset: int
    key: Key
    changed_offset: int
    aggregated_offset: int
    fields: Mapping[str, Any]

    @property
    def revision(self) -> tuple[int, int]:
        """How far each source is folded in."""
        return self.changed_offset, self.aggregated_offset


@dataclass(frozen=True)
class History:
    """One run. `processed`: next offset by (topic, partition), as the group has committed it."""

    produced: Sequence[Produced]
    processed: Mapping[tuple[str, int], int]
    published: Sequence[Published]
    letters: Sequence[Place]
    versions: Sequence[str]


@dataclass(frozen=True)
class Anomalies:
    """Counts. All but `unprocessed` and `repeated_*` have to be 0 for ever."""

    lost: int = 0
    """Events that the group is done with and no row holds, by tower; poison without a letter."""
    unprocessed: int = 0
    """Messages that the group is not done with: 0 at the end of a run, anything before."""
    wrong: int = 0
    """Rows that do not say what the fold says at their revision."""
    duplicate: int = 0
    """Rows that are a second truth: same key and revision as another, and not the same content."""
    phantom: int = 0
    """Rows or letters of what nobody produced."""
    stale_after_fresh: int = 0
    """Rows behind a row of their key that was out before."""
    stale_at_end: int = 0
    """Keys whose last row is not their freshest: compaction would keep the wrong one."""
    reordered_per_key: int = 0
    """Rows that are ahead of an earlier one in one source and behind it in the other."""
    repeated_rows: int = 0
    """Rows that brought nothing new: redelivery. Includes the stale ones."""
    repeated_letters: int = 0
    rows: int = 0
    keys: int = 0
    examples: tuple[str, ...] = field(default=(), compare=False)
    """The first few, with their places."""

    @property
    def redelivered_share(self) -> float:
        """Rows that brought nothing new, by row that did."""
        return self.repeated_rows / max(1, self.rows - self.repeated_rows)

    def counts(self) -> dict[str, int]:
        """By name."""
        return {name: count for name, count in asdict(self).items() if name != "examples"}


class Folded:
    """What each Pin has to be after any number of its events."""

    def __init__(self, produced: Iterable[Produced]) -> None:
        self.pins: dict[int, dict[str, _Source]] = {}
        self.poison: set[Place] = set()
        for event in sorted(produced, key=lambda one: one.place):
            if event.pin is None:
                self.poison.add(event.place)
            else:
                sources = self.pins.setdefault(event.pin, {})
                sources.setdefault(event.place[0], _Source()).take(event)

    def offsets(self, pin: int, topic: str) -> list[int]:
        """Offsets of a Pin's events of one source, ascending."""
        return self.pins[pin][topic].offsets if topic in self.pins.get(pin, {}) else []

    def last(self, pin: int) -> tuple[int, int]:
        """The revision of a Pin after everything."""
        last = [(self.offsets(pin, topic) or [NONE])[-1] for topic in _SOURCES]
        return last[0], last[1]

    def state(self, pin: int, revision: tuple[int, int]) -> dict[str, Any] | None:
        """Fields of a Pin at a revision; None when its events never lead there."""
        fields: dict[str, Any] = {"occurred_at_ms": 0}
        for topic, offset in zip(_SOURCES, revision, strict=True):
            if offset == NONE:
                continue
            source = self.pins.get(pin, {}).get(topic)
            after = source.after(offset) if source else None
            if after is None:
                return None
            newest = max(fields["occurred_at_ms"], after["occurred_at_ms"])
            fields |= {**after, "occurred_at_ms": newest}
        return fields


_SOURCES = (PIN_CHANGED.name, PIN_AGGREGATED.name)


class _Source:
    """A Pin's events of one source, and its fields after each of them."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self._states: list[dict[str, Any]] = []

    def take(self, event: Produced) -> None:
        before = self._states[-1] if self._states else {"occurred_at_ms": 0}
        newest = max(before["occurred_at_ms"], event.occurred_at_ms)
        self.offsets.append(event.place[2])
        self._states.append({**before, **event.sets, "occurred_at_ms": newest})

    def after(self, offset: int) -> dict[str, Any] | None:
        place = bisect_right(self.offsets, offset) - 1
        return self._states[place] if place >= 0 and self.offsets[place] == offset else None


def check(history: History) -> Anomalies:
    """Count the anomalies of a history. Rows and letters are judged in the order of their offsets."""
    folded = Folded(history.produced)
    counts: Counter[str] = Counter(rows=len(history.published))
    best: dict[Key, tuple[int, int]] = {}
    last: dict[Key, tuple[int, int]] = {}
    examples: list[str] = []
    said: dict[tuple[Key, tuple[int, int]], Mapping[str, Any]] = {}
    for row in sorted(history.published, key=lambda one: (one.partition, one.offset)):
        faults = [*_judge(row, folded, history.versions), *_order(row.revision, best.get(row.key))]
        counts.update(faults)
        if set(faults) - {"repeated_rows"}:
            where = f"{row.partition}/{row.offset}"
            examples.append(f"{faults}: {row.key} {row.revision} after {best.get(row.key)} at {where}")
        if said.setdefault((row.key, row.revision), row.fields) != row.fields:
            counts["duplicate"] += 1
        before = best.get(row.key, row.revision)
        best[row.key] = max(before, row.revision, key=lambda revision: (sum(revision), revision[0]))
        last[row.key] = row.revision
    stale = [key for key in best if last[key] != best[key]]
    examples += [f"stale at the end: {key} {last[key]} after {best[key]}" for key in stale]
    counts["stale_at_end"] = len(stale)
    counts["keys"] = len(best)
    counts.update(_letters(history, folded))
    lost, unprocessed = _coverage(history, best)
    counts.update(lost=len(lost), unprocessed=unprocessed)
    examples += [f"lost: {event}, {version or 'no letter'}" for event, version in lost]
    return Anomalies(**counts, examples=tuple(examples[:EXAMPLES]))


def _judge(row: Published, folded: Folded, versions: Sequence[str]) -> Iterator[str]:
    pin, version = row.key
    wanted = folded.state(pin, row.revision)
    if pin not in folded.pins or version not in versions or wanted is None or row.revision == (NONE, NONE):
        yield "phantom"
    elif any(row.fields.get(name) != value for name, value in wanted.items() if name in row.fields):
        yield "wrong"


def _order(revision: tuple[int, int], best: tuple[int, int] | None) -> Iterator[str]:
    """How a row stands to the freshest row of its key before it."""
    if best is None:
        return
    ahead = [new > old for new, old in zip(revision, best, strict=True)]
    behind = [new < old for new, old in zip(revision, best, strict=True)]
    if any(ahead) and any(behind):
        yield "reordered_per_key"
    elif any(behind):
        yield "stale_after_fresh"
    if not any(ahead):
        yield "repeated_rows"


def _letters(history: History, folded: Folded) -> dict[str, int]:
    told = Counter(history.letters)
    return {
        "phantom": sum(place not in folded.poison for place in told),
        "repeated_letters": sum(told.values()) - len(told),
    }


def _coverage(
    history: History, best: Mapping[Key, tuple[int, int]]
) -> tuple[list[tuple[Produced, str | None]], int]:
    """Messages that the group is done with and that show nowhere; and how many it is not done with."""
    told, lost, unprocessed = set(history.letters), list[tuple[Produced, str | None]](), 0
    for event in history.produced:
        topic, partition, offset = event.place
        if offset >= history.processed.get((topic, partition), 0):
            unprocessed += 1
        elif event.pin is None:
            lost += [] if event.place in told else [(event, None)]
        else:
            source = _SOURCES.index(topic)
            holds = {one: best.get((event.pin, one), (NONE, NONE))[source] for one in history.versions}
            lost += [(event, version) for version, upto in holds.items() if upto < offset]
    return lost, unprocessed


def duplicates(keys: Iterable[Key]) -> int:
    """Keys of a view (a snapshot, an index) beyond the first of their kind."""
    counted = Counter(keys)
    return sum(counted.values()) - len(counted)
