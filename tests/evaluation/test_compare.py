from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from evaluation.baselines import Ids
from evaluation.compare import baskets, compare, retrieve
from tests.models.tiny_examples import PINS, repeat_buyers

Records = npt.NDArray[np.void]


class FirstOfHistory:
    """Offers the Pins of the history, strongest first."""

    name = "first of history"

    def top(self, users: Records, k: int) -> Ids:
        return users["history_pins"][:, :k]


def test_baskets_are_the_pins_of_each_querys_pairs() -> None:
    examples = repeat_buyers(8)
    assert [basket.tolist() for basket in baskets(examples)] == examples.users["history_pins"][:, :2].tolist()


def test_retrieval_is_the_exact_search_of_each_querys_own_period() -> None:
    examples = repeat_buyers(10)
    generator = np.random.default_rng(0)
    queries = generator.normal(size=(10, 4)).astype(np.float32)
    states = [(period, examples.pins[examples.pin_period == period]) for period in (0, 1)]
    vectors = {period: generator.normal(size=(PINS, 4)).astype(np.float32) for period in (0, 1)}
    sequence = iter(vectors.values())
    found = retrieve(lambda users, moments: queries, lambda pins: next(sequence), examples, states, k=5)
    for row, period in enumerate(examples.query_period):
        dots = queries[row] @ vectors[int(period)].T
        assert found.pin_ids[row].tolist() == np.argsort(-dots)[:5].tolist()
        assert found.dots[row] == pytest.approx(np.sort(dots)[::-1][:5], rel=1e-5)


def test_the_table_holds_each_methods_recall_and_its_distance_to_the_towers() -> None:
    examples = repeat_buyers(20)
    own = examples.users["history_pins"]
    towers = np.stack([own[:, 0], np.full(20, -1)], axis=1)  # One of the two that each bought.
    result = compare(towers, examples, [FirstOfHistory()], k=2)
    assert [row.name for row in result.rows] == ["first of history", "two towers"]
    assert (result.recall("first of history"), result.recall("two towers")) == (1.0, 0.5)
    assert result.rows[0].towers_minus_this == -0.5
    assert result.rows[0].difference_interval == (-0.5, -0.5)
    assert "| first of history | 1.0000 |" in result.markdown()


def test_a_subset_keeps_each_querys_own_pairs() -> None:
    examples = repeat_buyers(12)
    chosen = np.array([2, 3, 9])
    part = examples.subset(chosen)
    assert [one.tolist() for one in baskets(part)] == [
        one.tolist() for row, one in enumerate(baskets(examples)) if row in chosen
    ]
    with pytest.raises(ValueError, match="do not fit"):
        replace(part, query_period=part.query_period[:1])
