from dataclasses import replace

import numpy as np
import pytest
import torch

from features.definitions import registry
from features.examples import Examples
from models.predictor import embed_pins, embed_queries
from models.training import Progress, TrainedTowers, TrainingConfig, train

from .tiny_examples import PINS, SMALL, repeat_buyers


def trained(examples: Examples, config: TrainingConfig = SMALL) -> TrainedTowers:
    return train(examples, config, registry(), clock=iter(range(10_000)).__next__)


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not() -> None:
    examples = repeat_buyers()
    one, other, third = (
        trained(examples, replace(SMALL, epochs=1, seed=seed)).model.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["ids.weight"], third["ids.weight"])


def test_users_find_again_what_they_bought() -> None:
    examples = repeat_buyers()
    result = trained(examples, replace(SMALL, epochs=20))
    assert result.last_loss < result.first_loss
    dots = embed_queries(result.model, examples.users, examples.contexts) @ (
        embed_pins(result.model, examples.pins[:PINS]).vectors.T
    )
    best = np.argsort(-dots, axis=1)[:, :2]
    own = examples.pair_pin.reshape(-1, 2) % PINS
    found = np.mean([np.isin(mine, top).mean() for mine, top in zip(own, best, strict=True)])
    assert found > 0.8  # 2 of 60 at random would be 0.03.


def test_progress_counts_pairs_and_says_how_long_it_will_take() -> None:
    examples = repeat_buyers()
    seen: list[Progress] = []
    clock = iter(range(1_000))
    train(examples, SMALL, registry(), seen.append, clock=lambda: float(next(clock)))
    assert [one.step for one in seen] == list(range(1, 13))
    assert {one.steps for one in seen} == {12}
    assert seen[-1].rows == 3 * examples.pairs
    assert seen[-1].eta_seconds == 0
    # The clock ticks once a step, so a step takes a second.
    assert seen[5].eta_seconds == 6
    assert seen[-1].rows_per_second == 3 * examples.pairs / 12


def test_nothing_to_learn_from_is_refused() -> None:
    examples = repeat_buyers()
    none = replace(examples, pair_query=examples.pair_query[:0], pair_pin=examples.pair_pin[:0])
    with pytest.raises(ValueError, match="no positive pairs"):
        trained(none)


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    with pytest.raises(FloatingPointError, match="step"):
        trained(repeat_buyers(), replace(SMALL, table_rate=float("inf")))


def test_dropped_history_is_drawn_from_the_seed() -> None:
    examples = repeat_buyers()
    config = replace(SMALL, epochs=1, history_dropout=0.5)
    one, other = (trained(examples, config).model.state_dict() for _ in range(2))
    assert torch.equal(one["ids.weight"], other["ids.weight"])
    kept = trained(examples, replace(config, history_dropout=0.0)).model.state_dict()
    assert not torch.equal(one["ids.weight"], kept["ids.weight"])
