"""The enrichment worker's output: one embedded Pin, for one tower version."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from .events import NO_NUL, PinStatus
from .ids import AdvertiserId, EpochMs, Micros, PinId
from .vectors import Fp16Vector

Sha256Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PinEmbedded(BaseModel):
    """One Pin's embedding and attributes after the events up to its source offsets.

    Keyed by Pin id + tower version (`embedded_key`). Of two rows with the same key the one with the
    higher `revision` wins, wherever and whenever it arrives; equal revisions are equal rows.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    type_name: ClassVar[str] = "pin.embedded.v1"

    pin_id: PinId
    tower_version: Sha256Hex
    vector: Fp16Vector
    input_mask: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        description="bit i is set when the tower's i-th Pin input was not its default"
    )
    changed_offset: Annotated[int, Field(ge=-1, lt=2**63)] = Field(
        description="last pin.changed.v1 offset folded in, or -1"
    )
    aggregated_offset: Annotated[int, Field(ge=-1, lt=2**63)] = Field(
        description="last pin.aggregated.v1 offset folded in, or -1"
    )
    occurred_at_ms: EpochMs = Field(description="event time of the newest event folded in")
    ingested_at_ms: EpochMs = Field(description="broker time of the newest event folded in")
    status: PinStatus = "active"
    title: Annotated[str, Field(pattern=NO_NUL)] = ""
    advertiser_id: AdvertiserId = 0
    price_micros: Micros = 0
    bid_micros: Micros = 0
    daily_budget_micros: Micros = 0
    target_ages: Annotated[int, Field(ge=0, lt=2**16)] = Field(
        0, description="bit i is set when AGE_BANDS[i] may see the ad; 0 means everyone"
    )
    starts_at_ms: EpochMs = 0
    ends_at_ms: EpochMs = Field(0, description="first moment at which the ad is over; 0 means never")

    @property
    def revision(self) -> int:
        """Grows by at least one with every event folded in, because both offsets only grow."""
        return self.changed_offset + self.aggregated_offset


def embedded_key(pin_id: int, tower_version: str) -> bytes:
    """Kafka key of a `PinEmbedded` row: compaction keeps the newest per Pin and tower version."""
    return f"{pin_id}:{tower_version[:16]}".encode("ascii")
