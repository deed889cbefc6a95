"""Training of the two towers: one explicit loop, reproducible bit for bit on a CPU.

A batch is some queries of one period, every Pin that they were positive for, and a few Pins drawn
uniformly from the catalogue (mixed negative sampling, Yang et al., WWW 2020, so that Pins which nobody
engaged with are scored too). All of them are in the state of that period, so a placement or a coupon
cannot give a negative away by its date.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from features.examples import Examples
from features.registry import FeatureRegistry

from .inputs import PinBatch, QueryBatch
from .losses import sampled_softmax
from .optimisers import RowAdagrad
from .towers import TowerConfig, TwoTower, fresh_towers

Indices = npt.NDArray[np.intp]

_LEAST_INCLUSION = 1e-6


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Learning rates fall linearly to `final_rate` of themselves."""

    tower: TowerConfig = field(default_factory=TowerConfig)
    epochs: int = 2
    queries_per_batch: int = 512
    sampled_per_batch: int = 1024
    table_rate: float = 0.1
    dense_rate: float = 2e-3
    final_rate: float = 0.1
    history_dropout: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """How far training is; `rows` are positive pairs."""

    step: int
    steps: int
    rows: int
    rows_per_second: float
    eta_seconds: float
    loss: float


@dataclass(frozen=True)
class TrainedTowers:
    """The model after the last step."""

    model: TwoTower
    config: TrainingConfig
    registry_hash: str
    rows: int
    duration_seconds: float
    first_loss: float
    last_loss: float
    """Mean loss of the first and of the last tenth of the steps."""


@dataclass(frozen=True)
class _Batch:
    queries: Indices
    pins: Indices
    rows: torch.Tensor
    columns: torch.Tensor
    log_inclusion: torch.Tensor
    pair_weights: torch.Tensor


class _Batches:
    """Cuts examples into batches, each of one period."""

    def __init__(self, examples: Examples, config: TrainingConfig, generator: np.random.Generator) -> None:
        self._examples, self._config, self._generator = examples, config, generator
        self._starts = np.searchsorted(examples.pair_query, np.arange(examples.queries + 1))
        self._baskets = np.bincount(examples.pair_pin, minlength=len(examples.pins))
        periods = np.unique(examples.query_period)
        self._queries = {p: np.flatnonzero(examples.query_period == p) for p in periods}
        sampled = examples.is_sampled
        self._sampled = {p: np.flatnonzero((examples.pin_period == p) & sampled) for p in periods}

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return sum(len(self._cuts(queries)) for queries in self._queries.values())

    def _cuts(self, queries: Indices) -> list[Indices]:
        pieces = max(1, round(len(queries) / self._config.queries_per_batch))
        return np.array_split(queries, pieces)

    def epoch(self) -> Iterator[_Batch]:
        """Every query once, in a new random order."""
        cuts = [
            (period, cut)
            for period, queries in self._queries.items()
            for cut in self._cuts(self._generator.permutation(queries))
        ]
        for place in self._generator.permutation(len(cuts)):
            yield self._batch(*cuts[place])

    def _batch(self, period: np.int64, queries: Indices) -> _Batch:
        starts, sizes = self._starts[queries], self._starts[queries + 1] - self._starts[queries]
        first = np.cumsum(sizes) - sizes
        pairs = np.arange(sizes.sum()) + np.repeat(starts - first, sizes)
        sample = self._sampled[period]
        drawn = self._generator.choice(
            sample, min(self._config.sampled_per_batch, len(sample)), replace=False
        )
        positives = self._examples.pair_pin[pairs]
        pins, place = np.unique(np.concatenate([positives, drawn]), return_inverse=True)
        # Of the period's N queries Q are here, so a Pin of n of them is missing with (1 - Q/N)^n.
        share = len(queries) / len(self._queries[period])
        missing = (1 - share) ** self._baskets[pins] * (1 - len(drawn) / self._examples.catalogue_size)
        inclusion = np.maximum(1 - missing, _LEAST_INCLUSION)
        return _Batch(
            queries=queries,
            pins=pins,
            rows=torch.from_numpy(np.repeat(np.arange(len(queries)), sizes)),
            columns=torch.from_numpy(place[: len(positives)]),
            log_inclusion=torch.from_numpy(np.log(inclusion).astype(np.float32)),
            # Every query counts the same, however many positives it has.
            pair_weights=torch.from_numpy(np.repeat(1 / sizes, sizes).astype(np.float32)),
        )


class _Learner:
    """The model, its optimisers and the prepared features."""

    def __init__(self, examples: Examples, config: TrainingConfig, registry: FeatureRegistry) -> None:
        self.model = fresh_towers(registry, config.tower, config.seed)
        inputs = self.model.inputs
        self._pins = inputs.pin_batch(inputs.pin_values(examples.pins))
        self._queries = inputs.query_batch(inputs.query_values(examples.users, examples.contexts))
        self._config = config
        self._dropout = torch.Generator().manual_seed(config.seed)
        self._tables = RowAdagrad(self.model.tables(), config.table_rate)
        self._dense = torch.optim.Adam(self.model.dense_parameters(), lr=config.dense_rate)

    def step(self, batch: _Batch, done: float) -> float:
        """One step, `done` (0 to 1) of the way through; returns its loss."""
        fall = 1 - (1 - self._config.final_rate) * done
        self._tables.rate = self._config.table_rate * fall
        for group in self._dense.param_groups:
            group["lr"] = self._config.dense_rate * fall
        queries = QueryBatch(*(part[batch.queries] for part in self._queries))
        pins = PinBatch(*(part[batch.pins] for part in self._pins))
        scores = self.model.embed_queries(queries, self._hide(queries)) @ self.model.embed_pins(pins).T
        loss = sampled_softmax(scores, batch.rows, batch.columns, batch.log_inclusion, batch.pair_weights)
        self._dense.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._tables.step()
        self._dense.step()
        return float(loss.detach())

    def _hide(self, queries: QueryBatch) -> torch.Tensor | None:
        if self._config.history_dropout == 0:
            return None
        shape = queries.history_weights.shape
        return (torch.rand(shape, generator=self._dropout) >= self._config.history_dropout).float()


def train(
    examples: Examples,
    config: TrainingConfig,
    registry: FeatureRegistry,
    progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> TrainedTowers:
    """Train both towers. The same examples, config, registry and thread count give the same bits.

    `progress` is called after each step. Raises ValueError without pairs, FloatingPointError when the
    loss stops being a number.
    """
    if examples.pairs == 0:
        raise ValueError("no positive pairs to train on")
    started = clock()
    learner = _Learner(examples, config, registry)
    batches = _Batches(examples, config, np.random.default_rng(config.seed))
    steps, rows = config.epochs * batches.per_epoch, 0
    losses: list[float] = []
    for _ in range(config.epochs):
        for batch in batches.epoch():
            losses.append(learner.step(batch, len(losses) / steps))
            rows += len(batch.rows)
            if not np.isfinite(losses[-1]):
                raise FloatingPointError(f"the loss is {losses[-1]} at step {len(losses)}: lower the rates")
            if progress is not None:
                progress(_report(losses, steps, rows, clock() - started))
    tenth = max(1, len(losses) // 10)
    return TrainedTowers(
        model=learner.model.eval(),
        config=config,
        registry_hash=registry.content_hash,
        rows=rows,
        duration_seconds=clock() - started,
        first_loss=float(np.mean(losses[:tenth])),
        last_loss=float(np.mean(losses[-tenth:])),
    )


def _report(losses: list[float], steps: int, rows: int, elapsed_seconds: float) -> Progress:
    per_step = elapsed_seconds / len(losses)
    return Progress(
        step=len(losses),
        steps=steps,
        rows=rows,
        rows_per_second=rows / max(elapsed_seconds, 1e-9),
        eta_seconds=per_step * (steps - len(losses)),
        loss=losses[-1],
    )
