"""`skewless train`: from the data set to a checkpoint that is live, with what it reached."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import orjson

from datasets.complete_journey import Journey
from evaluation.recipe import Recipe, run_recipe
from features.definitions import registry
from models.live_towers import locked_live_towers
from models.training import Progress
from schemas.artefacts import write_atomic

from .settings import Settings

Live = Literal["no", "serving", "candidate"]


def train_tower(
    settings: Settings, recipe: Recipe, live: Live, name: str, progress: Callable[[Progress], None]
) -> dict[str, Any]:
    """Train, calibrate, judge on later baskets, save; then name the tower in LIVE as asked.

    The result is also kept in the data directory's `status/tower-<name>.json`.
    """
    split = recipe.split
    result = run_recipe(Journey.installed(), recipe, settings.towers_dir, registry(), progress)
    version = result.manifest.tower_version
    if live != "no":
        with locked_live_towers(settings.towers_dir) as towers:
            others = [one for one in towers.read() if one != version]
            towers.write([version, *others] if live == "serving" else [*others, version])
    summary = {
        "name": name,
        "tower_version": version,
        "weeks": [split.first_week, split.last_week],
        "held_out_weeks": [split.first_held_out_week, split.last_held_out_week],
        "judged_baskets": result.comparison.queries,
        "recalls": {_key(row.name): round(row.recall, 4) for row in result.comparison.rows},
        "comparison": [dataclasses.asdict(row) for row in result.comparison.rows],
        "calibration": result.manifest.calibration.model_dump(),
        "rows": result.trained.rows,
        "seconds": {step: round(seconds, 2) for step, seconds in result.durations_seconds.items()},
    }
    path = settings.status_file(f"tower-{name}")
    write_atomic(path, orjson.dumps(summary))
    return summary


def _key(method: str) -> str:
    """`Item-kNN` -> `item_knn`."""
    return method.lower().replace(" ", "_").replace("-", "_")
