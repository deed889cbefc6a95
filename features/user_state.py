"""A user's state: demographics and a recency-decayed history of engaged Pins; and the fold into it.

The history keeps the `HISTORY` strongest Pins. A Pin's score is the sum over its engagements of
2^(-age / half-life). Every score decays at the same rate, so their order and their shares do not
change as time passes: a record is right until the user's next engagement, with no timer.
"""

import numpy as np
import numpy.typing as npt

from .pin_state import stable_hash

Records = npt.NDArray[np.void]

HISTORY = 50
HALF_LIFE_DAYS = 28.0
SEGMENTS = (
    "age",
    "income",
    "home_ownership",
    "marital_status",
    "household_size",
    "household_comp",
    "kids_count",
)
"""Demographic attributes, in the order of `segments`."""

_HALF_LIFE_MS = HALF_LIFE_DAYS * 86_400_000.0

USER_RECORD = np.dtype(
    [
        ("user_id", "<i8"),
        ("last_engaged_at_ms", "<i8"),
        ("segments", "<u4", (len(SEGMENTS),)),
        ("age_band", "<u2"),
        ("history_pins", "<i8", (HISTORY,)),
        ("history_categories", "<u4", (HISTORY,)),
        ("history_scores", "<f4", (HISTORY,)),
    ]
)
"""`age_band` is 1 + the index in AGE_BANDS, or 0; empty places of the history hold Pin -1."""

CONTEXT_RECORD = np.dtype([("occurred_at_ms", "<i8"), ("last_engaged_at_ms", "<i8")])


def empty_users(user_ids: npt.NDArray[np.int64]) -> Records:
    """Users about whom nothing is known yet."""
    records: Records = np.zeros(len(user_ids), USER_RECORD)
    records["user_id"] = user_ids
    records["history_pins"] = -1
    return records


def segment_hashes(values: dict[str, str | None]) -> list[int]:
    """Demographic values in `SEGMENTS` order, hashed; unknown ones are 0."""
    return [stable_hash(value) if (value := values.get(name)) else 0 for name in SEGMENTS]


def fold_engagements(
    users: Records,
    slots: npt.NDArray[np.intp],
    pins: npt.NDArray[np.int64],
    categories: npt.NDArray[np.uint32],
    occurred_at_ms: npt.NDArray[np.int64],
) -> None:
    """Fold one session of several users in, in place: row i of `pins` belongs to `users[slots[i]]`.

    Shapes: `slots` (N,) without repeats, `pins` and `categories` (N, L) with -1 padding `pins`,
    `occurred_at_ms` (N,), not before the users' last engagement. A Pin stands at most once in a row.
    """
    if pins.shape[1] == 0:
        return
    old_pins, old_scores = users["history_pins"][slots], users["history_scores"][slots]
    age_ms = np.maximum(occurred_at_ms - users["last_engaged_at_ms"][slots], 0)
    old_scores = old_scores * np.exp2(-age_ms / _HALF_LIFE_MS).astype(np.float32)[:, None]

    same = (old_pins[:, :, None] == pins[:, None, :]) & (pins[:, None, :] >= 0)  # (N, HISTORY, L)
    old_scores = old_scores + same.any(axis=2)
    is_new = (pins >= 0) & ~same.any(axis=1)

    all_pins = np.concatenate([old_pins, np.where(is_new, pins, -1)], axis=1)
    all_scores = np.concatenate([old_scores, is_new.astype(np.float32)], axis=1)
    all_categories = np.concatenate([users["history_categories"][slots], categories], axis=1)
    # Strongest first; of equal scores the lower Pin id, so that the result depends on nothing else.
    order = np.lexsort((all_pins, -all_scores), axis=1)[:, :HISTORY]
    kept_scores = np.take_along_axis(all_scores, order, axis=1)
    kept_pins = np.where(kept_scores > 0, np.take_along_axis(all_pins, order, axis=1), -1)
    users["history_pins"][slots] = kept_pins
    users["history_scores"][slots] = kept_scores
    users["history_categories"][slots] = np.where(
        kept_pins >= 0, np.take_along_axis(all_categories, order, axis=1), 0
    )
    users["last_engaged_at_ms"][slots] = occurred_at_ms


def contexts(users: Records, occurred_at_ms: npt.NDArray[np.int64]) -> Records:
    """Context records of queries by `users` at the given times."""
    records: Records = np.zeros(len(users), CONTEXT_RECORD)
    records["occurred_at_ms"] = occurred_at_ms
    records["last_engaged_at_ms"] = users["last_engaged_at_ms"]
    return records
