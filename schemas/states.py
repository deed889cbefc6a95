"""State as it is kept on compacted topics, so that a lost disk or a moved partition loses nothing."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from .embeddings import Sha256Hex
from .events import (
    COUPON_CAMPAIGN_TYPES,
    DISPLAY_LOCATIONS,
    MAILER_LOCATIONS,
    NO_NUL,
    VISIT_WINDOWS_DAYS,
    Count,
)
from .ids import AdvertiserId, EpochMs, Micros, PinId
from .vectors import ContentVector

TITLE_TOKENS = 12

Hash32 = Annotated[int, Field(ge=0, lt=2**32)]
Offset = Annotated[int, Field(ge=-1, lt=2**63)]
Flag = Annotated[int, Field(ge=0, le=1)]
Windows = Annotated[
    list[Count], Field(min_length=len(VISIT_WINDOWS_DAYS), max_length=len(VISIT_WINDOWS_DAYS))
]


class PinFeatures(BaseModel):
    """The merged state of one Pin after the events up to its source offsets. Keyed by `pin_id`.

    Field for field the worker's state record (`features.pin_state.PIN_RECORD`), texts as their hashes.
    Of two rows of one Pin the one with the higher offsets holds more; a field that a row of an older
    version of this schema lacks has its default.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    type_name: ClassVar[str] = "pin.features.v1"

    pin_id: PinId
    changed_offset: Offset = Field(description="last pin.changed.v1 offset folded in, or -1")
    aggregated_offset: Offset = Field(description="last pin.aggregated.v1 offset folded in, or -1")
    occurred_at_ms: EpochMs = 0
    ingested_at_ms: EpochMs = 0
    advertiser_id: AdvertiserId = 0
    price_micros: Micros = 0
    bid_micros: Micros = 0
    daily_budget_micros: Micros = 0
    starts_at_ms: EpochMs = 0
    ends_at_ms: EpochMs = 0
    brand: Hash32 = Field(0, description="CRC-32 of the text, 0 for none; so are the categories and tokens")
    category_l1: Hash32 = 0
    category_l2: Hash32 = 0
    category_l3: Hash32 = 0
    title_tokens: Annotated[list[Hash32], Field(min_length=TITLE_TOKENS, max_length=TITLE_TOKENS)] | None = (
        None
    )
    display_stores: (
        Annotated[list[Count], Field(min_length=DISPLAY_LOCATIONS, max_length=DISPLAY_LOCATIONS)] | None
    ) = None
    mailer_stores: (
        Annotated[list[Count], Field(min_length=MAILER_LOCATIONS, max_length=MAILER_LOCATIONS)] | None
    ) = None
    coupons: (
        Annotated[list[Count], Field(min_length=COUPON_CAMPAIGN_TYPES, max_length=COUPON_CAMPAIGN_TYPES)]
        | None
    ) = None
    offsite_visits: Windows | None = None
    engagements: Windows | None = None
    content_embedding: ContentVector | None = None
    target_ages: Annotated[int, Field(ge=0, lt=2**16)] = Field(0, description="bit i: the i-th age band")
    status: Annotated[int, Field(ge=0, le=3)] = Field(
        0, description="0 unknown, 1 active, 2 paused, 3 deleted"
    )
    interest_targeting: Flag = 0
    search_term_targeting: Flag = 0
    auto_targeting: Flag = 0
    title: Annotated[str, Field(max_length=300, pattern=NO_NUL)] = ""


class StateCheckpointed(BaseModel):
    """Rows of one partition of a state topic below `state_offset` hold everything before `covers`.

    Keyed by `state_topic:partition`. Such a statement stays true for ever, so the order in which two of
    them arrive does not matter: the one with the highest `state_offset` says most.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    type_name: ClassVar[str] = "state.checkpointed.v1"

    state_topic: str
    partition: Annotated[int, Field(ge=0)]
    state_offset: Annotated[int, Field(ge=0)]
    covers: dict[str, int] = Field(description="source topic -> next offset of this partition to fold in")
    embedded: list[Sha256Hex] = Field(
        [], description="tower versions of which every Pin of this partition has an embedded row"
    )
    live: list[Sha256Hex] = Field(
        [],
        description="tower versions that every event from `covers` on is embedded with: the states below "
        "`state_offset` and their rows together hold all of this partition",
    )
    worker: str
    occurred_at_ms: EpochMs
