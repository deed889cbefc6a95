import math

import pytest
import torch

from models.losses import sampled_softmax


def loss(scores: list[list[float]], rows: list[int], columns: list[int], inclusion: list[float]) -> float:
    return float(
        sampled_softmax(
            torch.tensor(scores),
            torch.tensor(rows),
            torch.tensor(columns),
            torch.log(torch.tensor(inclusion)),
            torch.ones(len(rows)),
        )
    )


def test_candidates_that_are_always_there_give_the_plain_softmax() -> None:
    expected = -math.log(math.exp(2) / (math.exp(2) + math.exp(1) + math.exp(0)))
    assert loss([[2.0, 1.0, 0.0]], [0], [0], [1.0, 1.0, 1.0]) == pytest.approx(expected, rel=1e-6)


def test_a_rare_candidate_stands_for_those_that_were_not_drawn() -> None:
    # Drawn one time in four, so it counts four times; the positive counts once.
    expected = -math.log(math.exp(2) / (math.exp(2) + 4 * math.exp(1)))
    assert loss([[2.0, 1.0]], [0], [0], [0.5, 0.25]) == pytest.approx(expected, rel=1e-6)


def test_another_positive_of_the_same_query_is_no_negative() -> None:
    scores, everything = [[2.0, 1.0, 0.0]], [1.0, 1.0, 1.0]
    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(0)))
    second = -math.log(math.exp(1) / (math.exp(1) + math.exp(0)))
    assert loss(scores, [0, 0], [0, 1], everything) == pytest.approx((first + second) / 2, rel=1e-6)


def test_a_pair_counts_by_its_weight() -> None:
    scores, columns = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0])
    weighted = sampled_softmax(
        scores, torch.tensor([0, 1]), columns, torch.zeros(2), torch.tensor([3.0, 1.0])
    )
    expected = (3 * math.log(1 + math.exp(-2)) + math.log(2)) / 4
    assert float(weighted) == pytest.approx(expected, rel=1e-6)
