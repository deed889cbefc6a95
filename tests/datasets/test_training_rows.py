from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.training_rows import Window, pin_categories, sessions, training_rows, users_before
from features.definitions import registry
from features.examples import Examples
from features.registry import Entity
from features.registry import Path as FeaturePath

from .tiny_journey import Purchase, TinyTables, default_purchases, moment

CUT = moment(5, 30)
WINDOW = Window(3, 6, sampled_pins=12)


def features_before(examples: Examples, until_ms: int) -> list[bytes]:
    """Every feature of every query before a time, and of every Pin of its periods, as bytes."""
    names = {
        entity: [spec.name for spec in registry().on_path(FeaturePath.TRAINING, entity)] for entity in Entity
    }
    queries = np.flatnonzero(examples.contexts["occurred_at_ms"] < until_ms)
    periods = np.unique(examples.query_period[queries])
    pins = np.flatnonzero(np.isin(examples.pin_period, periods) & examples.is_sampled)
    parts = (
        (Entity.USER, examples.users[queries]),
        (Entity.CONTEXT, examples.contexts[queries]),
        (Entity.PIN, examples.pins[pins]),
    )
    return [
        array.tobytes()
        for entity, records in parts
        for array in registry().compute(names[entity], records).values()
    ]


def rows(tables: TinyTables, folder: Path) -> Examples:
    return training_rows(tables.write(folder), WINDOW)


def moved(purchases: list[Purchase], *, after: bool) -> list[Purchase]:
    """Every purchase on one side of the cut bought something else at another price."""
    other = [
        (house, basket, 100 + (pin - 99) % 12, at, price + 5) for house, basket, pin, at, price in purchases
    ]
    return [new if (old[3] >= CUT) is after else old for old, new in zip(purchases, other, strict=True)]


def test_nothing_at_or_after_a_query_reaches_its_features(tmp_path: Path) -> None:
    known = rows(TinyTables(), tmp_path / "known")
    other = TinyTables(purchases=moved(default_purchases(), after=True))
    other.promotions = [(*row[:4], 7) if row[4] > 5 else row for row in other.promotions]
    other.campaigns = [row for row in other.campaigns if row[0] == 1]
    other.campaigns.append((2, "Type A", *TinyTables().campaigns[1][2:]))
    changed = rows(other, tmp_path / "other")
    deleted = rows(
        TinyTables(purchases=[row for row in default_purchases() if row[3] < CUT]), tmp_path / "deleted"
    )
    assert features_before(changed, CUT) == features_before(known, CUT)
    assert features_before(deleted, CUT) == features_before(known, CUT)


def test_a_query_at_the_very_moment_of_a_purchase_does_not_see_it(tmp_path: Path) -> None:
    purchases = default_purchases()
    at = purchases[-1][3]
    known = rows(TinyTables(purchases=purchases), tmp_path / "known")
    without = rows(
        TinyTables(purchases=[row for row in purchases if row[3] != at] + [(4, 1, 111, at, 1.0)]),
        tmp_path / "without",
    )
    assert features_before(known, at + 1) == features_before(without, at + 1)


def test_what_came_before_does_reach_the_features(tmp_path: Path) -> None:
    known = rows(TinyTables(), tmp_path / "known")
    past = rows(TinyTables(purchases=moved(default_purchases(), after=False)), tmp_path / "past")
    assert features_before(past, CUT) != features_before(known, CUT)


def test_pairs_join_each_basket_to_its_pins_in_that_weeks_state(tmp_path: Path) -> None:
    examples = rows(TinyTables(), tmp_path)
    assert examples.queries == 4 * 4 * 2
    assert (examples.query_period[examples.pair_query] == examples.pin_period[examples.pair_pin]).all()
    first = examples.pins["pin_id"][examples.pair_pin[examples.pair_query == 0]]
    at = examples.contexts["occurred_at_ms"][0]
    user = examples.users["user_id"][0]
    assert sorted(first) == sorted({row[2] for row in default_purchases() if row[3] == at and row[0] == user})


def test_a_users_history_is_the_fold_of_its_earlier_baskets_one_by_one(tmp_path: Path) -> None:
    journey = TinyTables().write(tmp_path)
    users = journey.users()
    visits = sessions(journey.engagements(), users["user_id"], last_week=6)
    before = users_before(
        users.copy(), visits, pin_categories(journey.products), np.arange(len(visits), dtype=np.intp)
    )
    second = [row for row in default_purchases() if row[0] == 2]
    earlier = {row[2] for row in second if row[3] < moment(3, 0)}
    third_visit = np.flatnonzero(visits.user == 1)[2]
    history = before["history_pins"][third_visit]
    assert set(history[history >= 0]) == earlier
    # Bought in both baskets, 48 hours apart: 1 + 2^(-2/28).
    assert before["history_scores"][third_visit][0] == pytest.approx(1 + 2 ** (-2 / 28), rel=1e-6)


def test_the_same_window_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    journey = TinyTables().write(tmp_path)
    window = replace(WINDOW, queries=10, sampled_pins=3)
    one, other = training_rows(journey, window), training_rows(journey, window)
    assert one.users.tobytes() == other.users.tobytes()
    assert one.pins.tobytes() == other.pins.tobytes()
    assert one.queries == 10
    assert training_rows(journey, replace(window, seed=1)).users.tobytes() != one.users.tobytes()
