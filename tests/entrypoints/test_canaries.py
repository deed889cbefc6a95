"""Canary queries are the same users at the same moments, whichever tower embeds them."""

from pathlib import Path

import numpy as np
import pytest

from entrypoints.canaries import QUERIES, canaries
from features.definitions import registry
from models.predictor import QueryTower
from schemas.errors import Refused
from tests.entrypoints.world import save_hot_tower, save_tower


def test_the_queries_of_a_tower_are_always_the_same_and_another_tower_s_are_others(tmp_path: Path) -> None:
    towers = [
        QueryTower.load(tmp_path / "towers", save_tower(tmp_path, seed=seed).tower_version, registry())
        for seed in (1, 2)
    ]
    first, again, other = canaries(towers[0]), canaries(towers[0]), canaries(towers[1])
    assert first.queries.shape == (QUERIES, towers[0].dimension)
    assert np.array_equal(first.queries, again.queries)
    assert not np.allclose(first.queries, other.queries)
    assert len(np.unique(first.queries, axis=0)) == QUERIES


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_tower_that_embeds_them_as_no_number_is_refused(tmp_path: Path) -> None:
    version = save_hot_tower(tmp_path, seed=1).tower_version
    tower = QueryTower.load(tmp_path / "towers", version, registry())
    with pytest.raises(Refused) as refused:
        canaries(tower)
    assert refused.value.code == "not_finite"
