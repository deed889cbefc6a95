from dataclasses import replace
from pathlib import Path

import pytest

from datasets.complete_journey import Journey
from evaluation.recipe import Recipe, run_recipe
from evaluation.splits import TimeSplit
from features.definitions import registry
from models.predictor import PinTower, QueryTower
from models.training import TrainingConfig
from tests.datasets.tiny_journey import TinyTables
from tests.models.tiny_examples import SMALL


def test_the_recipe_leaves_a_calibrated_checkpoint_that_says_what_it_reached(tmp_path: Path) -> None:
    journey = TinyTables().write(tmp_path / "journey")
    recipe = Recipe(
        TimeSplit(2, 5), replace(SMALL, epochs=1), judged_baskets=8, calibration_baskets=8, candidates=10
    )
    result = run_recipe(journey, recipe, tmp_path / "towers", registry())
    version = result.manifest.tower_version
    queries = QueryTower.load(tmp_path / "towers", version, registry())
    assert PinTower.load(tmp_path / "towers", version, registry()).version == version
    assert queries.calibration == result.manifest.calibration
    assert queries.calibration.intercept != 0
    assert result.manifest.trained_until_ms == recipe.split.until_ms
    assert result.manifest.metrics["recall_at_10_two_towers"] == result.comparison.recall("two towers")
    assert result.manifest.metrics["judged_baskets"] == 8
    assert set(result.durations_seconds) >= {"examples", "training", "checkpoint"}


@pytest.mark.demo_data
@pytest.mark.slow
def test_towers_trained_on_the_first_half_find_more_than_popularity_and_item_knn(tmp_path: Path) -> None:
    recipe = Recipe(TimeSplit(1, 26), TrainingConfig())
    rows = {
        row.name: row for row in run_recipe(Journey.installed(), recipe, tmp_path, registry()).comparison.rows
    }
    for name in ("popularity", "item-kNN"):
        assert rows[name].difference_interval[0] > 0, rows[name]
