"""Which Pins of a release may be shown to an age band at a time: decided per release, not per request.

Eligibility changes only when a flight starts or ends, at midnight (budgets) and when a budget runs out,
so the answer for a whole release is kept per (age band, stretch of time, day) and looked up.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from features.pin_state import STATUS_CODES
from index.vector_index import Bitmap, pack

from .ledger import SpendLedger

Records = npt.NDArray[np.void]
Codes = npt.NDArray[np.uint8]

Key = tuple[int, int, int]
"""Age band, stretch of time between two starts or ends of flights, day."""

MASKS_KEPT = 32


class Rule(IntEnum):
    """Why a Pin may not be shown: the first rule that it breaks, in this order."""

    ELIGIBLE = 0
    STATUS = 1
    NOT_STARTED = 2
    ENDED = 3
    TARGETING_AGE = 4
    NO_BID = 5
    BELOW_RESERVE = 6
    BUDGET_EXHAUSTED = 7


@dataclass(frozen=True)
class Mask:
    """Eligibility of every row of a release: `codes` are `Rule`s, `bitmap` has a bit for the eligible ones.

    All three change in place when a budget runs out (`Eligibility.exhaust`).
    """

    codes: Codes
    bitmap: Bitmap
    dropped: dict[str, int]
    """Rule -> rows that break it first."""

    def refuse(self, rows: npt.NDArray[np.int64], rule: Rule) -> None:
        """Take rows (without repeats) out that were eligible; the others keep their reason."""
        fresh = rows[self.codes[rows] == Rule.ELIGIBLE]
        if len(fresh):
            self.codes[fresh] = rule
            bits = np.left_shift(1, fresh & 7, dtype=np.int64).astype(np.uint8)
            np.bitwise_and.at(self.bitmap, fresh >> 3, ~bits)
            name = rule.name.lower()
            self.dropped[name] = self.dropped.get(name, 0) + len(fresh)


def rule_codes(attributes: Records, age_band: int, at_ms: int, reserve_micros: int) -> Codes:
    """The first `Rule` that each Pin breaks; `age_band` is 1 + index in AGE_BANDS, or 0 for unknown.

    A Pin without a daily budget that pays its bid once is BUDGET_EXHAUSTED: no budget, no spending.
    """
    targets, bids, ends = attributes["target_ages"], attributes["bid_micros"], attributes["ends_at_ms"]
    reached = (targets >> (age_band - 1)) & 1 if age_band else np.zeros_like(targets)
    broken = (
        (Rule.STATUS, attributes["status"] != STATUS_CODES["active"]),
        (Rule.NOT_STARTED, attributes["starts_at_ms"] > at_ms),
        (Rule.ENDED, (ends > 0) & (ends <= at_ms)),
        (Rule.TARGETING_AGE, (targets != 0) & (reached == 0)),
        (Rule.NO_BID, bids <= 0),
        (Rule.BELOW_RESERVE, bids < reserve_micros),
        (Rule.BUDGET_EXHAUSTED, attributes["daily_budget_micros"] < bids),
    )
    codes: Codes = np.zeros(len(attributes), np.uint8)
    for rule, rows in reversed(broken):
        codes[rows] = rule
    return codes


class Eligibility:
    """The masks of one release, made when first asked for and kept (the `MASKS_KEPT` last used)."""

    def __init__(self, attributes: Records, reserve_micros: int, ledger: SpendLedger) -> None:
        self._attributes = attributes
        self._reserve_micros = reserve_micros
        self._ledger = ledger
        starts, ends = (np.unique(attributes[name]) for name in ("starts_at_ms", "ends_at_ms"))
        times = np.union1d(starts, ends)
        self._boundaries = times[times > 0]
        self._masks: OrderedDict[Key, Mask] = OrderedDict()
        self._lock = threading.Lock()

    def of_other(self, attributes: Records) -> "Eligibility":
        """The same rules and the same ledger for other rows."""
        return Eligibility(attributes, self._reserve_micros, self._ledger)

    def key(self, age_band: int, at_ms: int) -> Key:
        """What decides a mask: two moments with equal keys have the same one."""
        stretch = int(self._boundaries.searchsorted(at_ms, side="right"))
        return age_band, stretch, self._ledger.day_of(at_ms)

    def mask(self, age_band: int, at_ms: int) -> Mask:
        """Eligibility of every row for `age_band` at `at_ms`."""
        key = self.key(age_band, at_ms)
        with self._lock:
            found = self._masks.get(key)
            if found is None:
                found = self._masks[key] = self._make(age_band, at_ms)
                while len(self._masks) > MASKS_KEPT:
                    self._masks.popitem(last=False)
            self._masks.move_to_end(key)
        return found

    def rule(self, row: int, age_band: int, at_ms: int) -> Rule:
        """Why the Pin of one row may not be shown, or ELIGIBLE. Makes no mask: nobody waits for it."""
        pin = self._attributes[row : row + 1]
        rule = Rule(int(rule_codes(pin, age_band, at_ms, self._reserve_micros)[0]))
        if rule is Rule.ELIGIBLE:
            with self._ledger.lock:
                (spent,) = self._ledger.spent(self._ledger.day_of(at_ms), pin["pin_id"].tolist())
            if pin["daily_budget_micros"][0] - spent < pin["bid_micros"][0]:
                return Rule.BUDGET_EXHAUSTED
        return rule

    def exhaust(self, day: int, rows: npt.NDArray[np.int64]) -> None:
        """These rows (without repeats) cannot pay their bid any more on `day`: keep them out of retrieval.

        It only saves candidates: the auction looks at the ledger itself.
        """
        with self._lock:
            for (_, _, mask_day), mask in self._masks.items():
                if mask_day == day:
                    mask.refuse(rows, Rule.BUDGET_EXHAUSTED)

    def close(self) -> None:
        """Let go of the release's attributes and of the masks."""
        with self._lock:
            self._attributes = self._attributes[:0].copy()
            self._masks.clear()

    def _make(self, age_band: int, at_ms: int) -> Mask:
        codes = rule_codes(self._attributes, age_band, at_ms, self._reserve_micros)
        counts = {rule: int(np.count_nonzero(codes == rule)) for rule in Rule if rule}
        dropped = {rule.name.lower(): count for rule, count in counts.items() if count}
        mask = Mask(codes, pack(codes == Rule.ELIGIBLE), dropped)
        mask.refuse(self._spent_out(self._ledger.day_of(at_ms)), Rule.BUDGET_EXHAUSTED)
        return mask

    def _spent_out(self, day: int) -> npt.NDArray[np.intp]:
        """Rows whose budget of `day`, less what the ledger says, no longer pays their bid."""
        pins, spent = self._ledger.spenders(day)
        if not len(pins):
            return np.empty(0, np.intp)
        rows = np.flatnonzero(np.isin(self._attributes["pin_id"], pins))
        by_pin = dict(zip(pins.tolist(), spent.tolist(), strict=True))
        of_rows = self._attributes[rows]
        spent_rows = np.array([by_pin[pin] for pin in of_rows["pin_id"].tolist()], np.int64)
        return rows[of_rows["daily_budget_micros"] - spent_rows < of_rows["bid_micros"]]
