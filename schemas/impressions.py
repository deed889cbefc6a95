"""Served ads on their way to training rows."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from .embeddings import Sha256Hex
from .ids import AdvertiserId, EpochMs, Micros, PinId, UserId
from .logs import PinDailyBudget, PinInputMask, PinPrice, PinTargetAges, PinUpdatedAt

Finite = Annotated[float, Field(allow_inf_nan=False)]
"""Written as JSON, NaN would become null, and nobody could read it."""

ConversionKind = Literal["visit", "purchase", "redemption", "click", "save"]


class ImpressionServed(BaseModel):
    """One served ad of one answered query, taken out of its RankingLog. Keyed by `pin_id`."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    type_name: ClassVar[str] = "impression.served.v1"

    request_id: str
    pin_id: PinId
    position: Annotated[int, Field(ge=0)] = Field(description="place among the answer's ads, 0 is the first")
    user_id: UserId | None = None
    served_at_ms: EpochMs
    queried_at_ms: EpochMs | None = Field(
        None, description="the query's own time, as of which its features were taken"
    )
    release_id: str
    snapshot_id: str
    registry_hash: Sha256Hex
    query_tower_version: Sha256Hex
    pin_tower_version: Sha256Hex
    query_vector: str = Field(description="the query embedding, base64 of little-endian fp32")
    advertiser_id: AdvertiserId
    dot: Finite
    pctr: Finite
    bid_micros: Micros
    price_micros: Micros
    pin_price_micros: PinPrice = None
    pin_daily_budget_micros: PinDailyBudget = None
    pin_target_ages: PinTargetAges = None
    pin_input_mask: PinInputMask = None
    pin_updated_at_ms: PinUpdatedAt = None


class ImpressionAttributed(ImpressionServed):
    """A served ad with what came of it: one training row. Keyed by `request_id:pin_id`.

    Written once per impression: when its window closes, with the first conversion of the same user and
    Pin inside the window, or without one. Nothing before `served_at_ms` and nothing after
    `window_ends_at_ms` is counted.
    """

    type_name: ClassVar[str] = "impression.attributed.v1"

    window_ends_at_ms: EpochMs
    converted: bool
    conversion_kind: ConversionKind | None = None
    converted_at_ms: EpochMs | None = None
    value_micros: Micros = 0
