"""Examples in which every user engages with the Pins of the own history: easy to learn."""

import numpy as np

from features.examples import Examples
from features.pin_state import empty_records
from features.user_state import contexts, empty_users
from models.towers import TowerConfig
from models.training import TrainingConfig

PINS = 60
SMALL = TrainingConfig(
    tower=TowerConfig(dimension=8, hidden=8), epochs=3, queries_per_batch=16, sampled_per_batch=8
)


def repeat_buyers(queries: int = 64, seed: int = 3) -> Examples:
    """Each query's positives are the two Pins that its history holds; two periods with the same Pins."""
    generator = np.random.default_rng(seed)
    pins = np.concatenate([empty_records(np.arange(PINS, dtype=np.int64))] * 2)
    pins["category_l3"] = pins["pin_id"] % 7 + 1
    pins["offsite_visits"] = (pins["pin_id"] % 5)[:, None]
    users = empty_users(np.arange(queries, dtype=np.int64))
    bought = np.sort(np.array([generator.choice(PINS, 2, replace=False) for _ in range(queries)]), axis=1)
    users["history_pins"][:, :2] = bought
    users["history_scores"][:, :2] = [2.0, 1.0]
    users["history_categories"][:, :2] = bought % 7 + 1
    users["last_engaged_at_ms"] = 1_000_000
    period = np.arange(queries, dtype=np.int64) % 2
    return Examples(
        users=users,
        contexts=contexts(users, np.full(queries, 90_000_000, np.int64)),
        query_period=period,
        pins=pins,
        pin_period=np.repeat(np.array([0, 1], np.int64), PINS),
        is_sampled=np.ones(2 * PINS, np.bool_),
        pair_query=np.repeat(np.arange(queries), 2),
        pair_pin=(bought + period[:, None] * PINS).ravel(),
        catalogue_size=PINS,
    )
