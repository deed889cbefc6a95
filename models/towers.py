"""The two towers.

Pin:   p = normalise(E[pin] + W2 relu(sum of T[code] + W1 dense)), of unit length.
Query: q = normalise(scale * sum of w_j E[history pin j] + sum of w_j C[history category j]
           + V2 relu(V1 [both sums] + sum of S[code] + W dense)) / temperature.

E is one table: a Pin of the history votes with the very vector that its Pin embedding starts from, so
what a user engaged with again and again is near without having to be learned twice.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional

from features.registry import FeatureRegistry
from features.transforms import CATEGORY_BUCKETS, PIN_BUCKETS
from features.user_state import HISTORY

from .inputs import PinBatch, QueryBatch, TowerInputs

FAMILY = "tied-history-two-tower-1"
_EPSILON = 1e-6


@dataclass(frozen=True)
class TowerConfig:
    """Sizes and starting values of a `TwoTower`."""

    dimension: int = 64
    hidden: int = 64
    id_scale: float = 0.3
    """Standard deviation of the id table at the start, near orthogonal vectors: larger ones learn slowly."""
    table_scale: float = 0.05
    temperature: float = 0.1
    history_power: float = 1.0
    """Starting exponent of the history weights; learned."""

    def as_dict(self) -> dict[str, int | float | str | bool]:
        """Plain data for the manifest."""
        return asdict(self)


class PinNet(nn.Module):
    """What the Pin tower adds to the id table."""

    def __init__(self, inputs: TowerInputs, config: TowerConfig) -> None:
        super().__init__()
        layout = inputs.pin_layout
        self.table = _table(layout.rows, config.hidden)
        self.dense = nn.Linear(layout.dense_width, config.hidden)
        self.out = nn.Linear(config.hidden, config.dimension)

    def forward(self, batch: PinBatch) -> torch.Tensor:
        """(N, dimension)."""
        hidden = torch.relu(self.table(batch.codes) + self.dense(batch.dense))
        out: torch.Tensor = self.out(hidden)
        return out


class QueryNet(nn.Module):
    """What the query tower adds to the id table."""

    def __init__(self, inputs: TowerInputs, config: TowerConfig) -> None:
        super().__init__()
        layout = inputs.query_layout
        self.categories = _embedding(CATEGORY_BUCKETS[2], config.dimension)
        self.table = _table(layout.rows, config.hidden)
        self.history = nn.Linear(2 * config.dimension, config.hidden)
        self.dense = nn.Linear(layout.dense_width, config.hidden)
        self.out = nn.Linear(config.hidden, config.dimension)
        self.log_inverse_temperature = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        self.history_power = nn.Parameter(torch.tensor(config.history_power))
        self.history_scale = nn.Parameter(torch.tensor(1.0))
        self.place_weights = nn.Parameter(torch.zeros(HISTORY))

    def weights(self, shares: torch.Tensor) -> torch.Tensor:
        """Weights of the history's Pins: shape (N, H), unit length or all 0."""
        raised = torch.where(shares > 0, shares + _EPSILON, 1.0) ** self.history_power
        placed = torch.where(shares > 0, raised * torch.exp(self.place_weights), 0.0)
        weights: torch.Tensor = placed / (placed.norm(dim=1, keepdim=True) + _EPSILON)
        return weights

    def forward(self, batch: QueryBatch, history: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(N, dimension), from the history's summed id vectors and the weights they were summed with."""
        categories = torch.bmm(weights[:, None, :], self.categories(batch.history_categories))[:, 0]
        hidden = torch.relu(
            self.history(torch.cat([history, categories], dim=1))
            + self.table(batch.codes)
            + self.dense(batch.dense)
        )
        summed = self.history_scale * history + categories + self.out(hidden)
        return functional.normalize(summed, dim=1) * self.log_inverse_temperature.exp()


class TwoTower(nn.Module):
    """Both towers over one id table. `config` and the registry decide every shape.

    NOTE: the tables' memory is not initialised, so that loading a checkpoint does not fill 130,000 rows
    only to replace them; a model to train comes from `fresh_towers`.
    """

    def __init__(self, registry: FeatureRegistry, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = TowerInputs.of(registry)
        self.ids = _embedding(PIN_BUCKETS, config.dimension)
        self.pin = PinNet(self.inputs, config)
        self.query = QueryNet(self.inputs, config)

    def embed_pins(self, batch: PinBatch) -> torch.Tensor:
        """Unit vectors (N, dimension)."""
        return functional.normalize(self.ids(batch.ids) + self.pin(batch), dim=1)

    def embed_queries(self, batch: QueryBatch, dropout: torch.Tensor | None = None) -> torch.Tensor:
        """(N, dimension), of length 1 / temperature; `dropout` (N, H), 0 or 1, hides parts of the history."""
        shares = batch.history_weights if dropout is None else batch.history_weights * dropout
        weights = self.query.weights(shares)
        history = torch.bmm(weights[:, None, :], self.ids(batch.history_ids))[:, 0]
        vectors: torch.Tensor = self.query(batch, history, weights)
        return vectors

    @property
    def temperature(self) -> float:
        """The learned temperature."""
        return math.exp(-self.query.log_inverse_temperature.item())

    def tables(self) -> list[torch.Tensor]:
        """Parameters with sparse gradients."""
        return [
            self.ids.weight,
            self.pin.table.weight,
            self.query.categories.weight,
            self.query.table.weight,
        ]

    def dense_parameters(self) -> list[nn.Parameter]:
        """All other parameters."""
        sparse = {id(table) for table in self.tables()}
        return [parameter for parameter in self.parameters() if id(parameter) not in sparse]


def fresh_towers(registry: FeatureRegistry, config: TowerConfig, seed: int) -> TwoTower:
    """A model to train, the same for the same seed. Seeds torch's global generator."""
    torch.manual_seed(seed)
    model = TwoTower(registry, config)
    nn.init.normal_(model.ids.weight, std=config.id_scale)
    for table in (model.pin.table.weight, model.query.categories.weight, model.query.table.weight):
        nn.init.normal_(table, std=config.table_scale)
    return model


def _embedding(rows: int, width: int) -> nn.Embedding:
    return nn.Embedding(rows, width, sparse=True, _weight=torch.empty(rows, width))


def _table(rows: int, width: int) -> nn.EmbeddingBag:
    return nn.EmbeddingBag(rows, width, mode="sum", sparse=True, _weight=torch.empty(rows, width))
