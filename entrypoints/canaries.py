"""Canary queries: a fixed, seeded set of users and moments, embedded by a release's own query tower."""

import numpy as np

from features.user_state import HISTORY, contexts, empty_users
from index.canaries import Canaries
from models.predictor import QueryTower
from schemas.errors import Refused
from schemas.events import AGE_BANDS

QUERIES = 32
_SEED = 20_170_703
_FIRST_MS = 1_499_040_000_000  # 2017-07-03, a Monday: the queries are spread over its week
_STEP_MS = 7 * 86_400_000 // QUERIES


def canaries(tower: QueryTower) -> Canaries:
    """The same users at the same moments for every tower; the first ones have no history at all.

    Raises Refused (`not_finite`) for a tower that embeds one of them as no number.
    """
    rng = np.random.default_rng(_SEED)
    users = empty_users(np.arange(1, QUERIES + 1))
    at_ms = _FIRST_MS + _STEP_MS * np.arange(QUERIES, dtype=np.int64)
    users["age_band"] = rng.integers(0, len(AGE_BANDS) + 1, QUERIES)
    users["segments"] = rng.integers(1, 2**32, users["segments"].shape, np.uint32)
    filled = np.arange(HISTORY) < (np.arange(QUERIES) * HISTORY // QUERIES)[:, None]
    shape = filled.shape
    users["history_pins"] = np.where(filled, rng.integers(1, 100_000, shape), -1)
    users["history_categories"] = np.where(filled, rng.integers(1, 2**32, shape, np.uint32), 0)
    users["history_scores"] = np.where(filled, rng.random(shape, np.float32), 0)
    users["last_engaged_at_ms"] = np.where(filled.any(axis=1), at_ms - 86_400_000, 0)
    try:
        return Canaries(tower.embed(users, contexts(users, at_ms)))
    except FloatingPointError as error:
        fix = "The query tower gives no numbers: train it again."
        raise Refused("not_finite", "finite canary queries", str(error), fix) from error
