"""What advertisers have spent, in integer micros, per Pin and day of the query's own time.

In memory and per process: two servers each hold their own, and a restart starts from nothing. Days are
UTC. A winner is charged when it is inserted into an answer, under the lock that its auction was held
under, so an ad is never sold beyond what its daily budget can pay.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from schemas.times import DAY_MS

DAYS_KEPT = 40
NEAR_DAYS = 7
"""Days this near to the wall clock's are never forgotten: no budget is had anew by asking about others."""

Ints = npt.NDArray[np.int64]


@dataclass
class _Day:
    by_pin: dict[int, int] = field(default_factory=dict)
    by_advertiser: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Charge:
    """One sold impression."""

    pin_id: int
    advertiser_id: int
    price_micros: int


class SpendLedger:
    """Spend of `DAYS_KEPT` days; `total_micros` is the sum of every charge ever made.

    A query names its own time, so a replay of old data sells on days far from the wall clock, one after the
    other, forwards or not: of the days that are not near, the one longest not sold on is forgotten first.
    Hold `lock` from reading what is left until the winners are charged.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.total_micros = 0
        self._days: OrderedDict[int, _Day] = OrderedDict()

    @staticmethod
    def day_of(occurred_at_ms: int) -> int:
        """Days since the epoch, UTC."""
        return occurred_at_ms // DAY_MS

    def spent(self, day: int, pin_ids: Iterable[int]) -> list[int]:
        """Micros that each Pin has spent on `day`, in the order of `pin_ids`."""
        by_pin = self._days[day].by_pin if day in self._days else {}
        return [by_pin.get(pin, 0) for pin in pin_ids]

    def spenders(self, day: int) -> tuple[Ints, Ints]:
        """Pins that have spent anything on `day`, and how many micros."""
        with self.lock:
            by_pin = dict(self._days[day].by_pin) if day in self._days else {}
        size = len(by_pin)
        return np.fromiter(by_pin.keys(), np.int64, size), np.fromiter(by_pin.values(), np.int64, size)

    def charge(self, day: int, charges: Sequence[Charge], *, today: int) -> None:
        """Book the winners of one answer on its `day`; `today` is the wall clock's."""
        if not charges:
            return
        with self.lock:
            book = self._open(day, today)
            for charge in charges:
                pin, advertiser, price = charge.pin_id, charge.advertiser_id, charge.price_micros
                book.by_pin[pin] = book.by_pin.get(pin, 0) + price
                book.by_advertiser[advertiser] = book.by_advertiser.get(advertiser, 0) + price
                self.total_micros += price

    def advertisers(self, day: int) -> dict[int, int]:
        """Advertiser -> micros spent on `day`."""
        with self.lock:
            return dict(self._days[day].by_advertiser) if day in self._days else {}

    def days(self) -> set[int]:
        """The days whose spend is known."""
        with self.lock:
            return set(self._days)

    def _open(self, day: int, today: int) -> _Day:
        book = self._days.setdefault(day, _Day())
        self._days.move_to_end(day)
        while len(self._days) > DAYS_KEPT:
            # More days are kept than are near, so one that is far comes before `day`, which is the last.
            del self._days[next(one for one in self._days if abs(one - today) > NEAR_DAYS)]
        return book
