"""Eligibility of a release's rows with a delta segment laid over them, for one view."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.delta import DeltaSegment
from index.vector_index import Bitmap

from .eligibility import MASKS_KEPT, Eligibility, Key, Rule

Rows = npt.NDArray[np.int64]

_MADE_AHEAD = 8
"""A mask for each age band, and for unknown: what a second of requests asks for."""


@dataclass(frozen=True)
class ViewMask:
    """What search may return: rows of the release (`bitmap`) and of the overlay (`overlay`).

    All three change in place when a budget runs out.
    """

    bitmap: Bitmap
    overlay: npt.NDArray[np.bool_]
    dropped: dict[str, int]

    def allows(self, rows: Rows, base_rows: int) -> npt.NDArray[np.bool_]:
        """Whether each row may still be returned; overlay rows are numbered from `base_rows` on."""
        allowed = np.empty(len(rows), np.bool_)
        of_base = rows < base_rows
        below = rows[of_base]
        allowed[of_base] = self.bitmap[below >> 3] >> (below & 7).astype(np.uint8) & 1
        allowed[~of_base] = self.overlay[rows[~of_base] - base_rows]
        return allowed

    def refuse(self, rows: Rows, base_rows: int) -> None:
        """Take out rows (without repeats) whose budget has run out."""
        out = rows[self.allows(rows, base_rows)]
        below = out[out < base_rows]
        np.bitwise_and.at(self.bitmap, below >> 3, ~_bits(below))
        self.overlay[out[out >= base_rows] - base_rows] = False
        name = Rule.BUDGET_EXHAUSTED.name.lower()
        self.dropped[name] = self.dropped.get(name, 0) + len(out)


class FreshMasks:
    """The masks of one view, made when first asked for and kept (the `MASKS_KEPT` last used)."""

    def __init__(self, base: Eligibility, base_rows: int, segment: DeltaSegment) -> None:
        self._base = base
        self._base_rows = base_rows
        self._segment = segment
        self._changed = base.of_other(segment.attributes)
        self._masks: OrderedDict[tuple[Key, Key], ViewMask] = OrderedDict()
        self._asked: dict[tuple[Key, Key], tuple[int, int]] = {}
        self._lock = threading.Lock()

    def mask(self, age_band: int, at_ms: int) -> ViewMask:
        """Eligibility of every row for `age_band` at `at_ms`."""
        key = self._base.key(age_band, at_ms), self._changed.key(age_band, at_ms)
        with self._lock:
            found = self._masks.get(key)
            if found is None:
                found = self._masks[key] = self._make(age_band, at_ms)
                self._asked[key] = age_band, at_ms
                while len(self._masks) > MASKS_KEPT:
                    del self._asked[self._masks.popitem(last=False)[0]]
            self._masks.move_to_end(key)
        return found

    def make_as(self, other: "FreshMasks") -> None:
        """Make the masks that another view was asked for, so that no request has to."""
        with other._lock:
            asked = list(other._asked.values())
        for age_band, at_ms in asked[-_MADE_AHEAD:]:
            self.mask(age_band, at_ms)

    def rule(self, row: int, age_band: int, at_ms: int) -> Rule:
        """Why the Pin of a row may not be shown, or ELIGIBLE."""
        slot = int(self._segment.slots(np.array([row]), self._base_rows)[0])
        if slot < 0:
            return self._base.rule(row, age_band, at_ms)
        return self._changed.rule(slot, age_band, at_ms)

    def exhaust(self, day: int, rows: Rows) -> None:
        """These rows cannot pay their bid any more on `day`. What the segment replaces nobody looks at."""
        self._base.exhaust(day, rows[rows < self._base_rows])
        slots = self._segment.slots(rows, self._base_rows)
        self._changed.exhaust(day, slots[slots >= 0])
        with self._lock:
            for ((_, _, mask_day), _), mask in self._masks.items():
                if mask_day == day:
                    mask.refuse(rows, self._base_rows)

    def _make(self, age_band: int, at_ms: int) -> ViewMask:
        base, changed = self._base.mask(age_band, at_ms), self._changed.mask(age_band, at_ms)
        patched, superseded = self._segment.patched, self._segment.superseded
        start = self._segment.overlay_start
        fits = changed.codes == Rule.ELIGIBLE
        bitmap = base.bitmap.copy()
        for rows in (superseded, patched):
            np.bitwise_and.at(bitmap, rows >> 3, ~_bits(rows))
        shown = patched[fits[:start]]
        np.bitwise_or.at(bitmap, shown >> 3, _bits(shown))
        replaced = np.concatenate([base.codes[patched], base.codes[superseded]])
        counts = np.bincount(replaced, minlength=len(Rule)).tolist()
        names = {rule.name.lower(): rule for rule in Rule if rule}
        dropped = {
            name: base.dropped.get(name, 0) - counts[rule] + changed.dropped.get(name, 0)
            for name, rule in names.items()
        }
        kept = {name: count for name, count in dropped.items() if count}
        return ViewMask(bitmap, fits[start:].copy(), kept)


def _bits(rows: Rows) -> npt.NDArray[np.uint8]:
    bits: npt.NDArray[np.uint8] = np.left_shift(1, rows & 7, dtype=np.int64).astype(np.uint8)
    return bits
