"""From the log to a checkpoint and its report, in one call: what `skewless train` and the demo run."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from datasets.complete_journey import Journey
from datasets.training_rows import PinStates, Window, training_rows
from features.registry import FeatureRegistry
from models.calibration import fit_calibration
from models.checkpoint import CheckpointNotes, save_checkpoint
from models.predictor import embed_pins, embed_queries
from models.training import Progress, TrainedTowers, TrainingConfig, train
from schemas.manifests import Calibration, TowerManifest

from .baselines import Baseline, ItemKnn, OwnHistory, Popularity
from .compare import Comparison, baskets, compare, retrieve
from .splits import TimeSplit

MOST_RECALL_K = 20


@dataclass(frozen=True)
class Recipe:
    """What to train on, how, and on how many later baskets to judge it."""

    split: TimeSplit
    training: TrainingConfig = field(default_factory=TrainingConfig)
    judged_baskets: int = 2_000
    calibration_baskets: int = 500
    candidates: int = 200
    """Retrieved Pins of each basket that calibration is fitted on; recall looks at the first 20 of them."""
    seed: int = 1
    with_item_knn: bool = True
    """Item-kNN takes most of the report's time."""


@dataclass(frozen=True)
class RecipeResult:
    """The saved checkpoint, what it reached, and how long each step took."""

    manifest: TowerManifest
    comparison: Comparison
    trained: TrainedTowers
    durations_seconds: dict[str, float]


def run_recipe(
    journey: Journey,
    recipe: Recipe,
    root: Path,
    registry: FeatureRegistry,
    progress: Callable[[Progress], None] | None = None,
) -> RecipeResult:
    """Examples -> training -> calibration -> recall beside the baselines -> checkpoint under `root`.

    The recall goes into the manifest's metrics, so a checkpoint says what it was worth when it was made.
    """
    laps = _Laps()
    split = recipe.split
    rows = training_rows(journey, Window(split.first_week, split.last_week))
    laps.lap("examples")
    trained = train(rows, recipe.training, registry, progress)
    laps.lap("training")
    calibration, comparison = _judge(journey, recipe, trained, laps)
    manifest = save_checkpoint(root, trained.model, _notes(recipe, registry, calibration, comparison))
    laps.lap("checkpoint")
    return RecipeResult(manifest, comparison, trained, laps.seconds)


def _judge(
    journey: Journey, recipe: Recipe, trained: TrainedTowers, laps: "_Laps"
) -> tuple[Calibration, Comparison]:
    """Calibrate on some held-out baskets and measure recall on others."""
    split = recipe.split
    window = Window(
        split.first_held_out_week,
        split.last_held_out_week,
        sampled_pins=0,
        queries=recipe.judged_baskets + recipe.calibration_baskets,
        seed=recipe.seed,
    )
    events = list(journey.journey_events(window.first_week, window.last_week))
    held_out = training_rows(journey, window, events)
    laps.lap("held-out examples")
    found = retrieve(
        lambda users, contexts: embed_queries(trained.model, users, contexts),
        lambda pins: embed_pins(trained.model, pins).vectors,
        held_out,
        PinStates(journey.product_ids).at_starts(events),
        recipe.candidates,
    )
    chosen = np.random.default_rng(recipe.seed).permutation(held_out.queries)
    calibration_rows = np.sort(chosen[: recipe.calibration_baskets])
    judged = np.sort(chosen[recipe.calibration_baskets :])
    relevant = baskets(held_out)
    labels = np.stack([np.isin(found.pin_ids[row], relevant[row]) for row in calibration_rows])
    calibration = fit_calibration(found.dots[calibration_rows].ravel(), labels.ravel())
    laps.lap("retrieval and calibration")
    comparison = compare(
        found.pin_ids[judged],
        held_out.subset(judged),
        _baselines(journey, recipe),
        min(MOST_RECALL_K, recipe.candidates),
        recipe.seed,
    )
    laps.lap("baselines")
    return calibration, comparison


def _baselines(journey: Journey, recipe: Recipe) -> list[Baseline]:
    split = recipe.split
    window = journey.engagements().filter(pl.col("week").is_between(split.first_week, split.last_week))
    popularity = Popularity(window)
    methods: list[Baseline] = [popularity, OwnHistory(popularity)]
    return [*methods, ItemKnn(window)] if recipe.with_item_knn else methods


def _notes(
    recipe: Recipe, registry: FeatureRegistry, calibration: Calibration, comparison: Comparison
) -> CheckpointNotes:
    return CheckpointNotes(
        registry_hash=registry.content_hash,
        trained_from_ms=recipe.split.from_ms,
        trained_until_ms=recipe.split.until_ms,
        seed=recipe.training.seed,
        calibration=calibration,
        metrics={
            f"recall_at_{comparison.k}_{row.name.replace(' ', '_').replace('-', '_').lower()}": row.recall
            for row in comparison.rows
        }
        | {"judged_baskets": float(comparison.queries)},
    )


class _Laps:
    """Seconds from one lap to the next."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
