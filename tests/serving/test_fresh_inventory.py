"""A release with a delta segment over it answers as the release that would be built from the final state."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.pin_state import STATUS_CODES
from index.delta import build_segment
from index.delta_fold import NO_VERSION, DeltaFold
from index.embedding_table import EmbeddedBatch
from serving.auction import AuctionPolicy
from serving.eligibility import Rule
from serving.fresh_inventory import FreshInventory
from serving.inventory import Found, Inventory
from serving.ledger import Charge, SpendLedger
from serving.live_release import Assembly, LiveRelease

from .fakes import DIMENSION, NOON_MS, REGISTRY_HASH, Records, fake_index, live, pins, vectors, version

TOWER, OTHER = version("tower"), version("other tower")
QUERY = np.array([1, 0, 0, 0], np.float32)
TODAY = SpendLedger.day_of(NOON_MS)


def changes(rows: Records, dots: list[float], *, tower: str = TOWER) -> EmbeddedBatch:
    """Newer rows of these Pins, whose dot product with the query is `dots`."""
    rows = rows.copy()
    rows["changed_offset"] += 1
    matrix = vectors(dots)
    return EmbeddedBatch(
        attributes=rows,
        vectors=[b"" if tower == NO_VERSION else vector.tobytes() for vector in matrix],
        titles=[f"New title of {pin}" for pin in rows["pin_id"].tolist()],
        versions=[tower],
        version_code=np.zeros(len(rows), np.uint8),
    )


def lay_over(release: LiveRelease, *batches: EmbeddedBatch, max_vectors: int = 1_000) -> FreshInventory:
    fold = DeltaFold(max_vectors)
    fold.keep({TOWER: DIMENSION})
    for one in batches:
        fold.apply(one)
    base = release.shelf.base()
    assert base is not None
    release.shelf.refresh(build_segment(fold, base, DIMENSION))
    view = release.inventory()
    assert isinstance(view, FreshInventory)
    return view


def found_pins(view: Inventory, width: int = 100, age_band: int = 0) -> list[int]:
    found: list[int] = view.describe(view.search(QUERY, age_band, NOON_MS, width).rows).pin_id.tolist()
    return found


def test_a_new_bid_acts_and_the_row_stays_in_the_index(assembly: Assembly) -> None:
    release = live(fake_index("r1", TOWER, pins(5)), assembly)
    view = lay_over(release, changes(pins(5, bid_micros=77_000)[2:3], [9.0], tower=OTHER))
    described = view.describe(view.search(QUERY, 0, NOON_MS, 10).rows)
    assert described.pin_id.tolist() == [100, 101, 102, 103, 104]
    assert described.bid_micros.tolist() == [10_000, 10_000, 77_000, 10_000, 10_000]
    assert described.fresh.tolist() == [False, False, True, False, False]
    assert view.titles(np.array([1, 2])) == ["Pin 101", "New title of 102"]


def test_what_is_logged_of_a_pin_is_what_is_newest_with_the_mask_of_the_embedding_that_scores(
    assembly: Assembly,
) -> None:
    release = live(fake_index("r1", TOWER, pins(4, price_micros=1, target_ages=6)), assembly)
    newer = pins(5, price_micros=77, occurred_at_ms=NOON_MS, input_mask=7)
    view = lay_over(release, changes(newer[2:3], [9.0], tower=OTHER), changes(newer[3:], [0.5, 0.4]))
    old_ms = NOON_MS - 3_600_000
    assert view.logged(np.array([4, 0, 2, 1])).tolist() == [
        [77, 0, 7, NOON_MS],
        [1, 6, 3, old_ms],
        [77, 0, 3, NOON_MS],
        [1, 6, 3, old_ms],
    ]
    assert view.logged(np.array([], np.int64)).shape == (0, 4)


def test_a_row_of_another_version_never_scores(assembly: Assembly) -> None:
    """Its dot of 9 would win; the Pin keeps the score of the release's own embedding."""
    release = live(fake_index("r1", TOWER, pins(5)), assembly)
    found = lay_over(release, changes(pins(5)[2:3], [9.0], tower=OTHER)).search(QUERY, 0, NOON_MS, 10)
    assert found.dots.max() == 1.0


@pytest.mark.parametrize("status", ["paused", "deleted"])
@pytest.mark.parametrize("tower", [TOWER, OTHER, NO_VERSION])
def test_a_pause_or_a_delete_takes_a_pin_out_whatever_the_bound(
    assembly: Assembly, status: str, tower: str
) -> None:
    release = live(fake_index("r1", TOWER, pins(5)), assembly)
    gone = changes(pins(5, status=STATUS_CODES[status])[1:3], [1.0, 1.0], tower=tower)
    view = lay_over(release, gone, max_vectors=0)
    found = view.search(QUERY, 0, NOON_MS, 10)
    assert view.describe(found.rows).pin_id.tolist() == [100, 103, 104]
    assert (found.total, found.dropped) == (5, {"status": 2})
    assert view.masks.rule(1, 0, NOON_MS) is Rule.STATUS


def test_a_new_pin_is_found_and_a_full_list_drops_its_worst(assembly: Assembly) -> None:
    release = live(fake_index("r1", TOWER, pins(4), [0.9, 0.7, 0.5, 0.3]), assembly)
    view = lay_over(release, changes(pins(6)[4:], [0.8, 0.1]))
    assert found_pins(view, width=3) == [100, 104, 101]
    assert found_pins(view) == [100, 104, 101, 102, 103, 105]
    coverage = view.coverage()
    assert (coverage.pins, coverage.fresh_pins) == (6, 2)


def test_equal_dots_go_to_the_lower_pin_whichever_side_it_is_on(assembly: Assembly) -> None:
    release = live(fake_index("r1", TOWER, pins(4)[1::2], [0.5, 0.5]), assembly)
    view = lay_over(release, changes(pins(4)[0::2], [0.5, 0.5]))
    assert found_pins(view, width=3) == [100, 101, 102]


def test_a_budget_that_runs_out_takes_rows_of_both_kinds_out(assembly: Assembly) -> None:
    release = live(fake_index("r1", TOWER, pins(4)), assembly)
    view = lay_over(release, changes(pins(4)[1:2], [0.0], tower=OTHER), changes(pins(5)[4:], [0.5]))
    rows = view.search(QUERY, 0, NOON_MS, 10).rows
    by_pin = dict(zip(view.describe(rows).pin_id.tolist(), rows.tolist(), strict=True))
    view.exhaust(SpendLedger.day_of(NOON_MS), np.array([by_pin[100], by_pin[101], by_pin[104]]))
    after = view.search(QUERY, 0, NOON_MS, 10)
    assert view.describe(after.rows).pin_id.tolist() == [102, 103]
    assert after.dropped == {"budget_exhausted": 3}


def test_a_budget_cut_below_what_was_spent_takes_the_pin_out(assembly: Assembly) -> None:
    release = live(fake_index("r1", TOWER, pins(3)), assembly)
    assembly.ledger.charge(TODAY, [Charge(101, 2, 50_000)], today=TODAY)
    view = lay_over(release, changes(pins(3, daily_budget_micros=55_000)[1:2], [0.5]))
    assert found_pins(view) == [100, 102]


def test_a_view_that_was_taken_does_not_change(assembly: Assembly) -> None:
    release = live(fake_index("r1", TOWER, pins(3)), assembly)
    taken = lay_over(release, changes(pins(3, bid_micros=50_000)[:1], [1.0]))
    row = taken.search(QUERY, 0, NOON_MS, 1).rows
    lay_over(release, changes(pins(3, status=STATUS_CODES["paused"])[:1], [1.0]))
    assert taken.describe(row).bid_micros.tolist() == [50_000]
    assert found_pins(release.inventory()) == [101, 102]


def test_a_closed_release_is_not_refreshed(assembly: Assembly) -> None:
    release = live(fake_index("r1", TOWER, pins(3)), assembly)
    base = release.shelf.base()
    assert base is not None
    release.close()
    assert release.shelf.base() is None
    release.shelf.refresh(build_segment(DeltaFold(1), base, DIMENSION))
    assert release.inventory() is release.local


def answer(view: Inventory, found: Found) -> list[tuple[int, int, float, bool]]:
    described = view.describe(found.rows)
    columns = (described.pin_id, described.bid_micros, found.dots, found.eligible)
    return list(zip(*(column.tolist() for column in columns), strict=True))


_COUNT = 12
_CHANGE = st.tuples(
    st.integers(0, _COUNT - 1),
    st.sampled_from(["active", "active", "paused", "deleted"]),
    st.integers(0, 3),
    st.integers(0, 5),
    st.integers(0, 3),
    st.sampled_from([TOWER, TOWER, OTHER, NO_VERSION]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    held=st.sets(st.integers(0, _COUNT - 1), min_size=1),
    came=st.lists(_CHANGE, max_size=20),
    spent=st.lists(st.integers(0, _COUNT - 1), max_size=3),
    width=st.integers(1, _COUNT),
    band=st.integers(0, 2),
)
def test_it_answers_as_a_rebuilt_release(
    held: set[int],
    came: list[tuple[int, str, int, int, int, str]],
    spent: list[int],
    width: int,
    band: int,
) -> None:
    """Pain 5: nothing has to be rebuilt, locked or copied for a change to be searchable, exactly."""
    ledger = SpendLedger()
    assembly = Assembly(REGISTRY_HASH, AuctionPolicy(), ledger, lambda: NOON_MS)
    ledger.charge(TODAY, [Charge(100 + pin, 1, 45_000) for pin in spent], today=TODAY)
    state, dots, known = pins(_COUNT), np.arange(_COUNT) / 8, np.isin(np.arange(_COUNT), sorted(held))
    base = live(fake_index("r1", TOWER, state[known].copy(), dots[known]), assembly)
    fold = DeltaFold(1_000)
    fold.keep({TOWER: DIMENSION})
    for number, (pin, status, targets, money, dot, tower) in enumerate(came):
        state[pin]["status"] = STATUS_CODES[status]
        state[pin]["target_ages"] = targets
        state[pin]["bid_micros"] = 10_000 * money
        state[pin]["daily_budget_micros"] = 20_000 * (money + dot)
        state[pin]["changed_offset"] = 10 * number
        fold.apply(changes(state[pin : pin + 1], [dot / 4], tower=tower))
        if tower == TOWER:
            dots[pin], known[pin] = dot / 4, True
    of_base = base.shelf.base()
    assert of_base is not None
    base.shelf.refresh(build_segment(fold, of_base, DIMENSION))
    rebuilt = live(fake_index("r2", TOWER, state[known].copy(), dots[known]), assembly)
    mine, truth = base.inventory(), rebuilt.inventory()
    found, expected = (view.search(QUERY, band, NOON_MS, width) for view in (mine, truth))
    assert answer(mine, found) == answer(truth, expected)
    assert sum(found.dropped.values()) + len(found.rows) == found.total


def test_rows_say_which_version_they_are_of(assembly: Assembly) -> None:
    index = fake_index("r1", TOWER, pins(2))
    index = replace(index, versions=[OTHER, TOWER], version_code=np.array([0, 1], np.uint8))
    release = live(index, replace(assembly, version_policy="tolerate"))
    view = lay_over(release, changes(pins(3)[2:], [0.5]))
    found = view.search(QUERY, 0, NOON_MS, 3)
    assert [view.versions[code] for code in view.describe(found.rows).version_code.tolist()] == [
        OTHER,
        TOWER,
        TOWER,
    ]
