"""`Ranked` → the response that the caller gets and the log row that proves what scored it."""

import base64
import math
from typing import Any

from schemas.logs import RankingLog
from schemas.ranking import RankResponse

from .ranked import Ranked, Sold


def response_fields(ranked: Ranked) -> dict[str, Any]:
    """The fields of `RankResponse`, as plain data: what the route sends."""
    source = ranked.provenance
    bidders = len(ranked.shortlist_pins)
    return {
        "request_id": ranked.request_id,
        "release_id": source.release_id,
        "snapshot_id": source.snapshot_id,
        "query_tower_version": source.query_tower_version,
        "pin_tower_version": source.pin_tower_version,
        "user_known": ranked.asker.known,
        "version_policy": source.version_policy,
        "version_mix": ranked.version_mix,
        "coverage": None if ranked.coverage is None else vars(ranked.coverage),
        "ads": [_ranked_ad(position, ad, bidders) for position, ad in enumerate(ranked.ads, start=1)],
        "stages": [vars(stage) for stage in ranked.stages],
    }


def _ranked_ad(position: int, ad: Sold, bidders: int) -> dict[str, Any]:
    price = "the reserve" if ad.priced_by_pin is None else f"Pin {ad.priced_by_pin}, the next in line"
    return {
        "position": position,
        "pin_id": ad.pin_id,
        "advertiser_id": ad.advertiser_id,
        "title": ad.title,
        "score": sigmoid(ad.dot),
        "pctr": ad.pctr,
        "bid_micros": ad.bid_micros,
        "price_micros": ad.price_micros,
        "reason": f"{position} of {bidders} by bid times pCTR; price set by {price}",
    }


def sigmoid(dot: float) -> float:
    """1 / (1 + e^-dot) without overflow."""
    return 1.0 / (1.0 + math.exp(-min(max(dot, -500.0), 500.0)))


def response_of(ranked: Ranked) -> RankResponse:
    """The answer, validated."""
    return RankResponse.model_validate(response_fields(ranked))


def log_of(ranked: Ranked) -> RankingLog:
    """The log row, validated. Each ad carries the version of its own row."""
    source = ranked.provenance
    return RankingLog.model_validate(
        {
            "request_id": ranked.request_id,
            "user_id": ranked.request.user_id,
            "occurred_at_ms": ranked.occurred_at_ms,
            "served_at_ms": ranked.served_at_ms,
            "release_id": source.release_id,
            "snapshot_id": source.snapshot_id,
            "registry_hash": source.registry_hash,
            "query_tower_version": source.query_tower_version,
            "version_policy": source.version_policy,
            "version_mix": ranked.version_mix,
            "query_vector": base64.b64encode(ranked.query.astype("<f4").tobytes()).decode("ascii"),
            "duration_seconds": ranked.duration_seconds,
            "stages": [vars(stage) for stage in ranked.stages],
            "ads": [_logged_ad(ad) for ad in ranked.ads],
        }
    )


def _logged_ad(ad: Sold) -> dict[str, Any]:
    return {
        "pin_id": ad.pin_id,
        "advertiser_id": ad.advertiser_id,
        "tower_version": ad.tower_version,
        "fresh": ad.fresh,
        "dot": ad.dot,
        "pctr": ad.pctr,
        "bid_micros": ad.bid_micros,
        "price_micros": ad.price_micros,
        "pin_price_micros": ad.pin.price_micros,
        "pin_daily_budget_micros": ad.daily_budget_micros,
        "pin_target_ages": ad.pin.target_ages,
        "pin_input_mask": ad.pin.input_mask,
        "pin_updated_at_ms": ad.pin.occurred_at_ms,
    }
