import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from evaluation.baselines import ItemKnn, OwnHistory, Popularity
from features.user_state import empty_users

BOUGHT = pl.DataFrame(
    {
        "user_id": [1, 1, 1, 2, 2, 3, 3],
        "pin_id": [10, 11, 10, 10, 12, 10, 11],
        "basket_id": [1, 1, 2, 3, 3, 4, 4],
    },
    schema_overrides={"pin_id": pl.Int64},
)
"""Pin 10 in four baskets, 11 in two, 12 in one; buyers: 10 of all, 11 of users 1 and 3, 12 of user 2."""


def user(history: dict[int, float]) -> npt.NDArray[np.void]:
    users = empty_users(np.array([1], np.int64))
    users["history_pins"][0, : len(history)] = list(history)
    users["history_scores"][0, : len(history)] = list(history.values())
    return users


def test_popularity_counts_baskets_and_offers_everybody_the_same() -> None:
    top = Popularity(BOUGHT).top(np.concatenate([user({}), user({12: 1.0})]), 4)
    assert top.tolist() == [[10, 11, 12, -1]] * 2


def test_a_pin_twice_in_one_basket_counts_once() -> None:
    twice = pl.DataFrame({"user_id": [1, 1, 2], "pin_id": [7, 7, 8], "basket_id": [1, 1, 2]})
    assert Popularity(twice).top(user({}), 2).tolist() == [[7, 8]]


def test_own_history_comes_first_and_popular_pins_fill_up() -> None:
    method = OwnHistory(Popularity(BOUGHT))
    assert method.top(user({12: 3.0, 99: 2.0}), 3).tolist() == [[12, 99, 10]]
    assert method.top(user({12: 3.0, 99: 2.0}), 1).tolist() == [[12]]
    assert method.top(user({}), 5).tolist() == [[10, 11, 12, -1, -1]]


def test_item_knn_scores_by_weight_times_cosine() -> None:
    # cos(11, 10) = 2 / sqrt(2 * 3), cos(11, 11) = 1, cos(11, 12) = 0; cos(12, 10) = 1 / sqrt(3).
    method = ItemKnn(BOUGHT)
    assert method.top(user({11: 1.0}), 3).tolist() == [[11, 10, 12]]
    scores = method._scores(user({11: 2.0, 12: 1.0}))[0]
    assert scores.tolist() == pytest.approx([2 * 2 / 6**0.5 + 1 / 3**0.5, 2.0, 1.0], rel=1e-6)


def test_item_knn_passes_over_pins_it_never_saw() -> None:
    known, unknown = user({12: 1.0}), user({12: 1.0, 99: 50.0})
    method = ItemKnn(BOUGHT)
    assert method.top(unknown, 3).tolist() == method.top(known, 3).tolist()
