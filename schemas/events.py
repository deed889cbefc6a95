"""What happened in the world: events that other people's systems publish to us.

Every field but the id and the time is optional and means «changed to this»; a field that is absent
(or null) says nothing about it. Schema evolution is additive: a new field has a default, none is
renamed, retyped or reused, and one encoded fixture of every version decodes for ever
(`tests/fixtures/events/`).
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .ids import AdvertiserId, EpochMs, Micros, PinId, UserId
from .vectors import ContentVector

PinStatus = Literal["active", "paused", "deleted"]
AgeBand = Literal["19-24", "25-34", "35-44", "45-54", "55-64", "65+"]
AGE_BANDS: tuple[AgeBand, ...] = ("19-24", "25-34", "35-44", "45-54", "55-64", "65+")

NO_NUL = r"^[^\x00]*$"
"""Text without the NUL character, which C libraries and databases further on would cut it at."""

ShortText = Annotated[str, Field(max_length=100, pattern=NO_NUL)]
Count = Annotated[int, Field(ge=0, lt=2**31)]

DISPLAY_LOCATIONS = 10
"""In-store display locations of The Complete Journey, «not on display» first."""
MAILER_LOCATIONS = 11
"""Weekly-mailer locations, «not in the mailer» first."""
COUPON_CAMPAIGN_TYPES = 3
VISIT_WINDOWS_DAYS = (1, 7, 30, 90)


class Event(BaseModel):
    """A past fact. Frozen; unknown fields are ignored, so that producers may add before we do."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    type_name: ClassVar[str]
    """CloudEvents `type`: the topic's name, major version included."""


class PinChanged(Event):
    """A partial update of one Pin: only what is set has changed. Keyed by `pin_id`."""

    type_name = "pin.changed.v1"

    pin_id: PinId
    occurred_at_ms: EpochMs = Field(description="when the change happened at its source")
    status: PinStatus | None = None
    title: Annotated[str, Field(max_length=300, pattern=NO_NUL)] | None = None
    category_l1: ShortText | None = Field(None, description="widest category, such as a department")
    category_l2: ShortText | None = None
    category_l3: ShortText | None = Field(None, description="narrowest category, such as a product type")
    brand: ShortText | None = None
    advertiser_id: AdvertiserId | None = None
    price_micros: Micros | None = Field(None, description="price of the promoted product")
    content_embedding: ContentVector | None = None
    display_stores: (
        Annotated[list[Count], Field(min_length=DISPLAY_LOCATIONS, max_length=DISPLAY_LOCATIONS)] | None
    ) = Field(None, description="number of stores that show the product, by display location")
    mailer_stores: (
        Annotated[list[Count], Field(min_length=MAILER_LOCATIONS, max_length=MAILER_LOCATIONS)] | None
    ) = Field(None, description="number of stores whose mailer shows the product, by place in the mailer")
    coupons: (
        Annotated[list[Count], Field(min_length=COUPON_CAMPAIGN_TYPES, max_length=COUPON_CAMPAIGN_TYPES)]
        | None
    ) = Field(None, description="live coupons, by campaign type A, B, C")
    interest_targeting: bool | None = None
    search_term_targeting: bool | None = None
    auto_targeting: bool | None = None
    target_ages: Annotated[list[AgeBand], Field(max_length=len(AGE_BANDS))] | None = Field(
        None, description="age bands that may see the ad; an empty list means everyone"
    )
    bid_micros: Micros | None = Field(None, description="most that one impression may cost")
    daily_budget_micros: Micros | None = None
    starts_at_ms: EpochMs | None = None
    ends_at_ms: EpochMs | None = Field(None, description="first moment at which the ad is over")


class PinAggregated(Event):
    """Windowed aggregates of one Pin, computed from visits and purchases elsewhere. Keyed by `pin_id`."""

    type_name = "pin.aggregated.v1"

    pin_id: PinId
    occurred_at_ms: EpochMs = Field(description="the end of the windows: nothing later is counted")
    offsite_visits: Annotated[list[Count], Field(min_length=4, max_length=4)] | None = Field(
        None, description="offsite conversion visits in the last 1, 7, 30 and 90 days"
    )
    engagements: Annotated[list[Count], Field(min_length=4, max_length=4)] | None = Field(
        None, description="purchases, redemptions, clicks and saves in the last 1, 7, 30 and 90 days"
    )

    @model_validator(mode="after")
    def _windows_are_nested(self) -> Self:
        for counts in (self.offsite_visits, self.engagements):
            if counts is not None and counts != sorted(counts):
                raise ValueError(f"1/7/30/90-day windows are nested, so counts cannot fall: {counts}")
        return self


class VisitObserved(Event):
    """Someone visited a Pin's destination outside of our surfaces (an offsite conversion visit).

    Keyed by `pin_id`. `user_id` is absent where the visitor is not known; such a visit is counted in the
    Pin's windows and attributed to nobody.
    """

    type_name = "visit.observed.v1"

    pin_id: PinId
    occurred_at_ms: EpochMs
    user_id: UserId | None = None


class EngagementObserved(Event):
    """A user did something with a Pin: here, a household bought a product. Keyed by `pin_id`."""

    type_name = "engagement.observed.v1"

    user_id: UserId
    pin_id: PinId
    occurred_at_ms: EpochMs
    kind: Literal["purchase", "redemption", "click", "save"]
    quantity: Annotated[int, Field(ge=1, lt=2**31)] = 1
    value_micros: Micros = 0
