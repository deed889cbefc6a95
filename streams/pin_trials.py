"""A Pin that the serving tower cannot embed with all of its events in a batch: with which of them it can."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from features.pin_state import Records
from features.store import RecordStore
from schemas.errors import DeadLetterReason

from .change_rows import Decoded, only_rows
from .pin_fold import fold_batch, stored_states
from .sources import DeadLetter, Ints, dead_letter
from .tower_output import PinEmbedder, embed_rows

FORWARDS = 256
"""Forwards a batch to find the events that a tower fails on: enough for about twenty among thousands.

What is not looked into after that is turned down as a whole; a producer of nothing but such events would
otherwise cost the worker a forward for each of them.
"""

Flags = npt.NDArray[np.bool_]
_Row = tuple[int, int]
"""Batch, and row of it as decoded."""


@dataclass(frozen=True)
class Tried:
    """The rows of the Pins in question: those that can be folded, and letters for the others."""

    good: Decoded
    letters: list[DeadLetter]


def turned_down(not_finite: bool, version: str, what: str) -> tuple[DeadLetterReason, str, str]:
    """Reason, story and tower of a letter for what the serving tower cannot embed."""
    if not_finite:
        return DeadLetterReason.NAN_EMBEDDING, f"the tower's vector of the Pin is not finite {what}", version
    return DeadLetterReason.MODEL_ERROR, f"the tower cannot embed the Pin {what}", version


def try_apart(store: RecordStore, decoded: Decoded, pin_ids: Ints, tower: PinEmbedder) -> Tried:
    """Fold the events of these Pins (ids ascending) in halves of halves, in order, leaving out what fails."""
    few = [
        (batch, replace(only_rows(one, np.isin(one.changes.pin_id, pin_ids)), letters=[]))
        for batch, one in decoded
    ]
    rows: dict[int, list[_Row]] = {}
    for number, (_, one) in enumerate(few):
        for row, pin in enumerate(one.changes.pin_id.tolist()):
            rows.setdefault(pin, []).append((number, row))
    records, tails, _ = stored_states(store, pin_ids)
    trials = _Trials(few, tower)
    for place, pin in enumerate(pin_ids.tolist()):
        trials.settle(records[place : place + 1], tails[place], rows.get(pin, []))
    good = [(batch, only_rows(one, ~bad)) for (batch, one), bad in zip(few, trials.bad, strict=True)]
    return Tried(good, sorted(trials.letters, key=lambda letter: (letter.topic, letter.row)))


@dataclass
class _Trials:
    """`settle` goes from Pin to Pin; what a Pin's good events come to is its state for the next ones."""

    decoded: Decoded
    tower: PinEmbedder
    letters: list[DeadLetter] = field(default_factory=list)
    bad: list[Flags] = field(init=False)
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.bad = [np.zeros(len(one.rows), np.bool_) for _, one in self.decoded]
        self.left = FORWARDS

    def settle(self, record: Records, tail: bytes, rows: list[_Row]) -> tuple[Records, bytes]:
        """The state with those of these rows that it can be embedded with; letters for the others."""
        if self.left <= 0:
            self._turn_down(rows, not_finite=False)
            return record, tail
        folded, tails = record.copy(), [tail]
        for number, (batch, one) in enumerate(self.decoded):
            if mine := [row for its, row in rows if its == number]:
                chosen = np.zeros(len(one.rows), np.bool_)
                chosen[mine] = True
                slots = np.zeros(len(mine), np.intp)
                fold_batch(folded, tails, slots, batch, only_rows(one, chosen))
        self.left -= 1
        output = embed_rows(self.tower, folded)
        if not output.failed[0]:
            return folded, tails[0]
        if len(rows) <= 1:
            self._turn_down(rows, not_finite=bool(output.not_finite[0]))
            return record, tail
        middle = len(rows) // 2
        record, tail = self.settle(record, tail, rows[:middle])
        return self.settle(record, tail, rows[middle:])

    def _turn_down(self, rows: list[_Row], *, not_finite: bool) -> None:
        what = "with this change" if len(rows) == 1 else "with this and the changes next to it"
        reason, said, version = turned_down(not_finite, self.tower.version, what)
        for number, row in rows:
            batch, one = self.decoded[number]
            self.bad[number][row] = True
            letter = dead_letter(batch, int(one.rows[row]), reason, f"{said}; its state is without it")
            self.letters.append(replace(letter, model_version=version))
