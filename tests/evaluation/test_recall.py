import doctest

import numpy as np
import pytest

import evaluation.recall
from evaluation.recall import bootstrap_interval, recall_at_k


def test_the_docstrings_example_is_right() -> None:
    assert doctest.testmod(evaluation.recall).failed == 0


def test_recall_is_hits_over_the_basket() -> None:
    retrieved = np.array([[1, 2, 3, 4]])
    basket = [np.array([3, 4, 5, 6, 7])]
    assert recall_at_k(retrieved, basket, 4).tolist() == [2 / 5]
    assert recall_at_k(retrieved, basket, 3).tolist() == [1 / 5]
    assert recall_at_k(retrieved, basket, 2).tolist() == [0]


def test_places_that_a_method_left_empty_hit_nothing() -> None:
    assert recall_at_k(np.array([[8, -1]]), [np.array([8, 9])], 2).tolist() == [0.5]


@pytest.mark.parametrize(
    ("retrieved", "baskets", "k"),
    [
        (np.zeros((1, 2), np.int64), [np.array([1])], 3),
        (np.zeros((2, 2), np.int64), [np.array([1])], 2),
        (np.zeros((1, 2), np.int64), [np.array([], np.int64)], 2),
    ],
)
def test_what_has_no_recall_is_refused(
    retrieved: np.ndarray[tuple[int, int], np.dtype[np.int64]],
    baskets: list[np.ndarray[tuple[int], np.dtype[np.int64]]],
    k: int,
) -> None:
    with pytest.raises(ValueError, match=r"retrieved|recall"):
        recall_at_k(retrieved, baskets, k)


def test_the_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(0.3, 0.2, 4_000)
    low, high = bootstrap_interval(values, seed=1)
    # 1.96 standard errors of 0.2 / sqrt(4000) on each side.
    assert (high - low) / 2 == pytest.approx(1.96 * 0.2 / 4_000**0.5, rel=0.1)
    assert low < values.mean() < high
    assert bootstrap_interval(values, seed=1) == (low, high)
    assert bootstrap_interval(np.full(10, 0.5), seed=1) == (0.5, 0.5)
