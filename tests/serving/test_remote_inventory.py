"""What a root tells its leaves about budgets that have run out."""

import numpy as np

from features.shard_slices import Shard
from serving.ledger import DAYS_KEPT, Charge, SpendLedger
from serving.remote_inventory import SpentOut

TODAY = 20_000
EVERY = Shard(1, 1)


def test_it_is_told_as_long_as_the_ledger_knows_the_day() -> None:
    ledger = SpendLedger()
    spent_out = SpentOut(ledger)
    first = TODAY + 100
    for day in (TODAY, *range(first, first + DAYS_KEPT)):
        ledger.charge(day, [Charge(5, 1, 30)], today=TODAY)
        spent_out.add(day, np.array([5]))
    pins, micros = spent_out.of(TODAY, EVERY)
    assert (pins.tolist(), micros.tolist()) == ([5], [30])
    # The oldest of the others had to go, there and here.
    assert [len(spent_out.of(day, EVERY)[0]) for day in (first, first + 1)] == [0, 1]
