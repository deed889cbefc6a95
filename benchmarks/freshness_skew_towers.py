"""The towers: each trained anew by the product's own recipe, a week of data later than the one before."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

from datasets.complete_journey import Journey
from evaluation.recipe import Recipe, run_recipe
from evaluation.splits import TimeSplit
from features.definitions import registry
from models.checkpoint import CheckpointNotes, save_checkpoint
from models.predictor import PinTower, QueryTower
from models.towers import TowerConfig, fresh_towers
from models.training import TrainingConfig
from schemas.artefacts import write_atomic

_INDEX = "trained.json"


@dataclass(frozen=True)
class Training:
    """How the towers of a run are trained."""

    weeks: int
    epochs: int

    def recipe(self, last_week: int, seed: int) -> Recipe:
        """Training on `weeks` weeks; the week after them, `last_week`, is for calibration."""
        return Recipe(
            split=TimeSplit(last_week - self.weeks, last_week - 1, held_out_weeks=1),
            training=TrainingConfig(epochs=self.epochs, seed=seed),
            judged_baskets=300,
            with_item_knn=False,
        )


@dataclass(frozen=True)
class Tower:
    """Both halves of one version, what it was trained on, and how long that took when it was trained."""

    query: QueryTower
    pin: PinTower
    last_week: int
    seed: int
    training_seconds: float

    @property
    def version(self) -> str:
        """Its content hash."""
        return self.pin.version


@dataclass(frozen=True)
class Workshop:
    """Trains towers into `root/towers`, or finds them there from an earlier run."""

    journey: Journey
    root: Path
    training: Training
    say: Callable[[str], None]

    @property
    def towers(self) -> Path:
        """The checkpoints."""
        return self.root / "towers"

    def tower(self, last_week: int, seed: int) -> Tower:
        """The tower whose data end with `last_week`."""
        key = json.dumps(
            [last_week, seed, self.training.weeks, self.training.epochs, registry().content_hash]
        )
        known = self._known()
        if key not in known:
            self.say(f"training on {self.training.weeks} weeks up to week {last_week}, seed {seed}")
            recipe = self.training.recipe(last_week, seed)
            result = run_recipe(self.journey, recipe, self.towers, registry())
            took = round(sum(result.durations_seconds.values()), 1)
            known[key] = [result.manifest.tower_version, took]
            write_atomic(self.root / _INDEX, orjson.dumps(known))
        version, seconds = known[key]
        return self._load(str(version), last_week, seed, float(seconds))

    def untrained(self, seed: int) -> QueryTower:
        """A query tower of the same make that has seen no data."""
        model = fresh_towers(registry(), TowerConfig(), seed)
        manifest = save_checkpoint(self.towers, model, CheckpointNotes(registry().content_hash, 0, 0, seed))
        return QueryTower.load(self.towers, manifest.tower_version, registry())

    def _load(self, version: str, last_week: int, seed: int, seconds: float) -> Tower:
        query = QueryTower.load(self.towers, version, registry())
        pin = PinTower.load(self.towers, version, registry())
        return Tower(query, pin, last_week, seed, seconds)

    def _known(self) -> dict[str, list[str | float]]:
        try:
            found: dict[str, list[str | float]] = orjson.loads((self.root / _INDEX).read_bytes())
        except FileNotFoundError:
            return {}
        return found
