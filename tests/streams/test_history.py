"""The history checker finds the fault that was planted, and nothing else."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from schemas.topics import PIN_AGGREGATED, PIN_CHANGED
from tests.schemas.examples import VERSION_A, VERSION_B
from tests.streams.history import Anomalies, History, Produced, Published, check, duplicates

CHANGED, AGGREGATED = PIN_CHANGED.name, PIN_AGGREGATED.name
PIN = 7

PRODUCED = (
    Produced((CHANGED, 0, 0), 10, PIN, {"price_micros": 1}),
    Produced((CHANGED, 0, 1), 30, PIN, {"title": "new"}),
    Produced((CHANGED, 0, 2)),
    Produced((CHANGED, 0, 3), 20, PIN, {"price_micros": 2}),
    Produced((AGGREGATED, 0, 0), 40, PIN),
)
"""Three changes of one Pin, a poison message, one aggregate."""


def _row(offset: int, changed: int, aggregated: int = -1, **fields: Any) -> Published:
    return Published(0, offset, (PIN, VERSION_A), changed, aggregated, fields)


ROWS = (
    _row(0, 0, price_micros=1, occurred_at_ms=10),
    _row(1, 1, price_micros=1, title="new", occurred_at_ms=30),
    _row(2, 3, price_micros=2, title="new", occurred_at_ms=30),
    _row(3, 3, 0, price_micros=2, title="new", occurred_at_ms=40),
)

CLEAN = History(
    produced=PRODUCED,
    processed={(CHANGED, 0): 4, (AGGREGATED, 0): 1},
    published=ROWS,
    letters=[(CHANGED, 0, 2)],
    versions=[VERSION_A],
)


def _with(*rows: Published, **changes: Any) -> History:
    return replace(CLEAN, published=rows or ROWS, **changes)


def test_a_clean_history_has_no_anomalies() -> None:
    assert check(CLEAN) == Anomalies(rows=4, keys=1)


def test_events_of_a_pin_may_come_out_as_one_row() -> None:
    assert check(_with(ROWS[3])) == Anomalies(rows=1, keys=1)


PLANTED: Mapping[str, tuple[History, dict[str, int]]] = {
    "the last row is missing": (_with(*ROWS[:3]), {"lost": 1}),
    "a Pin has no row at all": (replace(CLEAN, published=()), {"lost": 4}),
    "a live tower has no rows": (_with(versions=[VERSION_A, VERSION_B]), {"lost": 4}),
    "poison without a letter": (_with(letters=[]), {"lost": 1}),
    "offsets not committed yet": (
        _with(*ROWS[:2], processed={(CHANGED, 0): 2}, letters=[]),
        {"unprocessed": 3},
    ),
    "a field that an older event had set": (
        _with(*ROWS[:3], replace(ROWS[3], fields={**ROWS[3].fields, "price_micros": 1})),
        {"wrong": 1},
    ),
    "two truths for one revision": (
        _with(*ROWS, _row(4, 3, 0, price_micros=9, title="new", occurred_at_ms=40)),
        {"wrong": 1, "duplicate": 1, "repeated_rows": 1},
    ),
    "the same row twice": (_with(*ROWS, replace(ROWS[3], offset=4)), {"repeated_rows": 1}),
    "a zombie's row": (
        _with(*ROWS, replace(ROWS[1], offset=4)),
        {"stale_after_fresh": 1, "stale_at_end": 1, "repeated_rows": 1},
    ),
    "a zombie's row that a fresh one follows": (
        _with(*ROWS[:3], replace(ROWS[0], offset=3), replace(ROWS[3], offset=4)),
        {"stale_after_fresh": 1, "repeated_rows": 1},
    ),
    "sources that overtake each other": (
        _with(
            ROWS[0],
            _row(1, 3, price_micros=2, title="new", occurred_at_ms=30),
            _row(2, 1, 0, price_micros=1, title="new", occurred_at_ms=40),
            replace(ROWS[3], offset=4),
        ),
        {"reordered_per_key": 1},
    ),
    "a row of a Pin that nobody changed": (
        _with(*ROWS, Published(1, 0, (8, VERSION_A), 0, -1, {})),
        {"phantom": 1},
    ),
    "a row at an offset that is no event of its Pin": (
        _with(*ROWS[:3], _row(3, 2, 0, price_micros=1, title="new"), replace(ROWS[3], offset=4)),
        {"phantom": 1, "reordered_per_key": 1},
    ),
    "a row of a tower that is not live": (
        _with(*ROWS, Published(0, 4, (PIN, VERSION_B), 3, 0, {})),
        {"phantom": 1},
    ),
    "a letter of a good event": (_with(letters=[(CHANGED, 0, 2), (CHANGED, 0, 3)]), {"phantom": 1}),
    "a letter twice": (_with(letters=[(CHANGED, 0, 2)] * 2), {"repeated_letters": 1}),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_named_and_nothing_else(fault: str) -> None:
    history, wanted = PLANTED[fault]
    found = {
        name: count
        for name, count in check(history).counts().items()
        if count and name not in ("rows", "keys")
    }
    assert found == wanted


def test_the_redelivered_share_is_by_row_that_brought_something() -> None:
    history = _with(*ROWS, *(replace(ROWS[3], offset=4 + more) for more in range(3)))
    assert check(history).redelivered_share == 3 / 4


def test_rows_of_other_partitions_do_not_order_each_other() -> None:
    elsewhere = Produced((CHANGED, 1, 0), 10, 8, {})
    history = replace(
        _with(Published(1, 9, (8, VERSION_A), 0, -1, {}), *ROWS),
        produced=(*PRODUCED, elsewhere),
        processed={**CLEAN.processed, (CHANGED, 1): 1},
    )
    assert check(history) == Anomalies(rows=5, keys=2)


def test_a_view_holds_a_key_once() -> None:
    keys = [(PIN, VERSION_A), (8, VERSION_A), (PIN, VERSION_B), (PIN, VERSION_A)]
    assert duplicates(keys) == 1
