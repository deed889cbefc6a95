"""A live ranking query and its answer."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from .embeddings import Sha256Hex
from .events import AgeBand
from .ids import AdvertiserId, EpochMs, Micros, PinId, UserId
from .tiers import VersionPolicy

MAX_SLOTS = 100
MAX_HISTORY = 50

RequestId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+$")]


class Boundary(BaseModel):
    """What comes in: frozen, strict, and refusing unknown keys. A typo is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Answer(BaseModel):
    """Frozen and strict; unknown keys are ignored, so that a server may add fields before its clients do."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class RankRequest(Boundary):
    """`POST /v1/rank`. A known `user_id` is enough; inline fields override what the store knows."""

    user_id: UserId | None = None
    request_id: RequestId | None = Field(None, description="made by the server when absent")
    occurred_at_ms: EpochMs | None = Field(
        None, description="the query's time; the server's clock when absent"
    )
    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)] = 10
    age: AgeBand | None = None
    history: Annotated[list[PinId], Field(max_length=MAX_HISTORY)] | None = Field(
        None, description="Pins the user engaged with, most important first"
    )


class RankedAd(Answer):
    """One winner of the auction."""

    position: Annotated[int, Field(ge=1)]
    pin_id: PinId
    advertiser_id: AdvertiserId
    title: str
    score: float = Field(description="sigmoid of the dot product of query and Pin embedding (L1)")
    pctr: float = Field(description="calibrated probability of engagement, what the auction used")
    bid_micros: Micros
    price_micros: Micros = Field(description="what this impression costs; never above the bid")
    reason: str = Field(description="why it stands here, in words")


class StageTrace(Answer):
    """What one stage of the funnel took in, let through and cost."""

    stage: Literal["query_tower", "retrieval", "l1", "auction"]
    candidates_in: Annotated[int, Field(ge=0)]
    candidates_out: Annotated[int, Field(ge=0)]
    duration_seconds: Annotated[float, Field(ge=0)]
    dropped: dict[str, int] = Field(default_factory=dict, description="reason -> how many it dropped here")


class Coverage(Answer):
    """Which part of the inventory an answer was chosen from."""

    shards: Annotated[int, Field(ge=1)] = 1
    shards_answered: Annotated[int, Field(ge=0)] = 1
    pins: Annotated[int, Field(ge=0)] = Field(description="Pins of the shards that answered")
    fresh_pins: Annotated[int, Field(ge=0)] = Field(
        0, description="of those, Pins that changed since the release's snapshots (the delta segment)"
    )

    @property
    def complete(self) -> bool:
        """Whether every shard answered."""
        return self.shards_answered == self.shards


class RankResponse(Answer):
    """Ranked, priced ads and the proof of what scored them: all under one lease on one release."""

    request_id: RequestId
    release_id: str
    snapshot_id: str
    query_tower_version: Sha256Hex
    pin_tower_version: Sha256Hex
    user_known: bool = Field(description="false when neither the store nor the request described the user")
    version_policy: VersionPolicy = "enforce"
    version_mix: dict[Sha256Hex, int] = Field(
        default_factory=dict,
        description="Pins scored for this answer, by the tower version of their embedding",
    )
    coverage: Coverage | None = Field(None, description="absent in answers of older servers")
    ads: list[RankedAd]
    stages: list[StageTrace]


class Problem(Answer):
    """RFC 9457 problem details, with a hint that says what fixes it."""

    type: str
    title: str
    status: int
    detail: str
    hint: str
    request_id: str | None = None
    errors: list[dict[str, str]] | None = None
