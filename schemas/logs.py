"""What was served, with everything needed to recount it later."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from .embeddings import Sha256Hex
from .ids import AdvertiserId, EpochMs, Micros, PinId, UserId
from .ranking import StageTrace
from .tiers import VersionPolicy

_THEN = "when the answer was made; not in older logs"

PinPrice = Annotated[Micros | None, Field(description=f"price of the Pin's product {_THEN}")]
PinDailyBudget = Annotated[Micros | None, Field(description=f"daily budget of the Pin {_THEN}")]
PinTargetAges = Annotated[
    Annotated[int, Field(ge=0, lt=2**16)] | None,
    Field(description=f"bit i is set when AGE_BANDS[i] may see the ad, 0 means everyone, {_THEN}"),
]
PinInputMask = Annotated[
    Annotated[int, Field(ge=0, lt=2**63)] | None,
    Field(description=f"bit i is set when the scored embedding had a value for Pin input i, {_THEN}"),
]
PinUpdatedAt = Annotated[
    EpochMs | None, Field(description=f"event time of the newest change in these attributes {_THEN}")
]


class LoggedAd(BaseModel):
    """One served ad, as it was scored and priced."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    pin_id: PinId
    advertiser_id: AdvertiserId
    tower_version: Sha256Hex = Field(
        description="version of the Pin embedding that was scored, from its row's tag"
    )
    fresh: bool = Field(False, description="from the delta segment: newer than the release's snapshot")
    dot: float = Field(description="query embedding · Pin embedding")
    pctr: float
    bid_micros: Micros
    price_micros: Micros = Field(description="what the impression costs")
    pin_price_micros: PinPrice = None
    pin_daily_budget_micros: PinDailyBudget = None
    pin_target_ages: PinTargetAges = None
    pin_input_mask: PinInputMask = None
    pin_updated_at_ms: PinUpdatedAt = None


class RankingLog(BaseModel):
    """One answered query. Recounting mixed pairs needs nothing but these rows."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    type_name: ClassVar[str] = "ranking.logged.v1"

    request_id: str
    user_id: UserId | None = None
    occurred_at_ms: EpochMs
    served_at_ms: EpochMs
    release_id: str
    snapshot_id: str
    registry_hash: Sha256Hex
    query_tower_version: Sha256Hex
    version_policy: VersionPolicy = "enforce"
    version_mix: dict[Sha256Hex, int] = Field(
        default_factory=dict,
        description="Pins scored for this answer, by the tower version of their embedding",
    )
    query_vector: str = Field(description="the query embedding, base64 of little-endian fp32")
    duration_seconds: float
    stages: list[StageTrace]
    ads: list[LoggedAd]

    def mixed_pairs(self) -> int:
        """(Query, Pin) pairs in this answer whose embeddings came from different tower versions."""
        return sum(ad.tower_version != self.query_tower_version for ad in self.ads)

    def mixed_scored(self) -> int:
        """The same of all pairs that were scored for this answer, served or not."""
        return sum(
            count for version, count in self.version_mix.items() if version != self.query_tower_version
        )


class ReleasePublished(BaseModel):
    """CURRENT moved: a publish or a rollback."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    type_name: ClassVar[str] = "release.published.v1"

    release_id: str
    previous_release_id: str | None = None
    tower_version: Sha256Hex
    snapshot_id: str
    action: str = Field(description="publish or rollback")
    actor: str
    reason: str
    occurred_at_ms: EpochMs
