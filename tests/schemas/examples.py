"""One-line makers of valid messages; every test changes only what it is about."""

from typing import Any

from schemas.embeddings import PinEmbedded
from schemas.events import EngagementObserved, PinAggregated, PinChanged
from schemas.vectors import CONTENT_DIMENSION, encode_fp16

VERSION_A = "a" * 64
VERSION_B = "b" * 64

FULL_PIN_CHANGED: dict[str, Any] = {
    "pin_id": 7,
    "occurred_at_ms": 1_500_000_000_000,
    "status": "active",
    "title": "Crème brûlée, 2x100 g",
    "category_l1": "GROCERY",
    "category_l2": "DESSERTS",
    "category_l3": "CHILLED",
    "brand": "Private",
    "advertiser_id": 69,
    "price_micros": 2_500_000,
    "content_embedding": encode_fp16([i / 64 for i in range(CONTENT_DIMENSION)]),
    "display_stores": list(range(10)),
    "mailer_stores": list(range(11)),
    "coupons": [1, 2, 3],
    "interest_targeting": True,
    "search_term_targeting": False,
    "auto_targeting": True,
    "target_ages": ["19-24", "65+"],
    "bid_micros": 120_000,
    "daily_budget_micros": 50_000_000,
    "starts_at_ms": 1_400_000_000_000,
    "ends_at_ms": 1_600_000_000_000,
}
"""A change that sets every field."""


def pin_changed(**fields: Any) -> PinChanged:
    """A change of Pin 7; without `fields` it says nothing."""
    return PinChanged(**({"pin_id": 7, "occurred_at_ms": 1_500_000_000_000} | fields))


def pin_aggregated(**fields: Any) -> PinAggregated:
    """Visits of Pin 7."""
    row: dict[str, Any] = {
        "pin_id": 7,
        "occurred_at_ms": 1_500_000_000_000,
        "offsite_visits": [1, 2, 3, 4],
    }
    return PinAggregated(**(row | fields))


def engagement(**fields: Any) -> EngagementObserved:
    """User 3 buys Pin 7."""
    row: dict[str, Any] = {
        "user_id": 3,
        "pin_id": 7,
        "occurred_at_ms": 1_500_000_000_000,
        "kind": "purchase",
    }
    return EngagementObserved(**(row | fields))


def pin_embedded(**fields: Any) -> PinEmbedded:
    """Pin 7 embedded by tower A at offsets 5 and 2."""
    row: dict[str, Any] = {
        "pin_id": 7,
        "tower_version": VERSION_A,
        "vector": encode_fp16([0.5, -0.25, 0.0, 1.0]),
        "input_mask": 3,
        "changed_offset": 5,
        "aggregated_offset": 2,
        "occurred_at_ms": 1_500_000_000_000,
        "ingested_at_ms": 1_500_000_000_250,
    }
    return PinEmbedded(**(row | fields))
