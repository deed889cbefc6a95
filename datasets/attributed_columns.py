"""The columns of a training table of served ads, each with where it comes from and who has it when serving.

Lineage is data: `lineage` joins each column with the feature registry, so that a feature which no serving
path is onboarded to says `train_only` here, whatever anybody wrote by hand.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from features.registry import FeatureRegistry, Path

Role = Literal["identity", "feature", "logged", "label"]

REQUEST = "ranking.logged.v1"
AD = "ranking.logged.v1 ads[]"
PIN = "ranking.logged.v1 ads[]; for older logs the snapshot that was served from"
ACTIONS = "engagement.observed.v1 before the query"
CONVERSIONS = "visit.observed.v1, engagement.observed.v1 within the window"
TRAIN_ONLY = "train_only"


@dataclass(frozen=True)
class Column:
    """`feature`: the registry's name of what a serving path computes from the same source.

    `stages`: stages of the funnel that have a value which is no registered feature when they run.
    """

    name: str
    type: pa.DataType
    role: Role
    source: str
    feature: str | None = None
    stages: tuple[str, ...] = ()


_INT, _TEXT, _REAL = pa.int64(), pa.string(), pa.float64()

COLUMNS: tuple[Column, ...] = (
    Column("request_id", _TEXT, "identity", REQUEST),
    Column("pin_id", _INT, "identity", AD, "pin_id"),
    Column("user_id", _INT, "identity", REQUEST),
    Column("served_at_ms", _INT, "identity", REQUEST),
    Column("queried_at_ms", _INT, "feature", REQUEST, "hour_of_week"),
    Column("release_id", _TEXT, "identity", REQUEST),
    Column("snapshot_id", _TEXT, "identity", REQUEST),
    Column("registry_hash", _TEXT, "identity", REQUEST),
    Column("query_tower_version", _TEXT, "identity", REQUEST),
    Column("pin_tower_version", _TEXT, "identity", AD),
    # The query's features as the tower saw them, in the form that scored.
    Column("query_vector", pa.list_(pa.float32()), "logged", REQUEST, stages=("retrieval", "l1")),
    Column("history_pin_ids", pa.list_(_INT), "feature", ACTIONS, "history_pins"),
    Column("history_kinds", pa.list_(_TEXT), "logged", ACTIONS),
    Column("history_occurred_at_ms", pa.list_(_INT), "feature", ACTIONS, "days_since_engagement"),
    Column("advertiser_id", _INT, "feature", AD, "advertiser"),
    Column("dot", _REAL, "logged", AD, stages=("l1", "auction")),
    Column("pctr", _REAL, "logged", AD, stages=("auction",)),
    Column("bid_micros", _INT, "logged", AD, stages=("auction",)),
    # What the auction came to: no stage has these before it has ranked.
    Column("price_micros", _INT, "logged", AD),
    Column("position", _INT, "logged", AD),
    Column("pin_price_micros", _INT, "feature", PIN, "price"),
    Column("pin_daily_budget_micros", _INT, "logged", PIN, stages=("auction",)),
    Column("pin_target_ages", _INT, "logged", PIN, stages=("retrieval",)),
    Column("pin_input_mask", _INT, "logged", PIN),
    Column("pin_updated_at_ms", _INT, "logged", PIN),
    Column("converted", pa.bool_(), "label", CONVERSIONS),
    Column("conversion_kind", _TEXT, "label", CONVERSIONS),
    Column("converted_at_ms", _INT, "label", CONVERSIONS),
    Column("value_micros", _INT, "label", CONVERSIONS),
    Column("window_ends_at_ms", _INT, "label", "declared windows"),
)


def lineage(registry: FeatureRegistry) -> list[dict[str, Any]]:
    """Each column with source and serving path: the registry's paths, funnel stages, or `train_only`."""
    return [
        {
            "column": one.name,
            "role": one.role,
            "source": one.source,
            "feature": one.feature,
            "serving_path": _serving_path(one, registry),
        }
        for one in COLUMNS
    ]


def _serving_path(column: Column, registry: FeatureRegistry) -> str | None:
    if column.role in ("identity", "label"):
        return None
    if column.feature is None:
        return ", ".join(column.stages) or TRAIN_ONLY
    paths = registry[column.feature].paths - {Path.TRAINING}
    return ", ".join(sorted(path.value for path in paths)) or TRAIN_ONLY
