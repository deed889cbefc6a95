"""What the skew monitor reads and says."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from .embeddings import Sha256Hex
from .ids import EpochMs

Share = Annotated[float, Field(ge=0, le=1)]
SkewKind = Literal["mixed_responses", "stream_not_aligned", "query_not_released"]


class EmbeddingsCounted(BaseModel):
    """What one enrichment worker embedded in a short while: rows by tower version. Keyed by `worker`."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    type_name: ClassVar[str] = "embeddings.counted.v1"

    worker: str
    tier: str
    from_ms: EpochMs
    until_ms: EpochMs
    pins: Annotated[int, Field(ge=0)] = Field(
        description="Pins that changed; each should have a row per tower"
    )
    rows: dict[Sha256Hex, Annotated[int, Field(ge=0)]]


class SkewAlerted(BaseModel):
    """Skew was found in a tier, or is over. Keyed by `tier:kind`; the newest row is the present state.

    `mixed_responses`: answers whose query and Pin embeddings differ in tower version. `stream_not_aligned`:
    Pins embedded now get no row of the serving version, so its index grows old. `query_not_released`:
    queries are answered by a tower that is not the current release's.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    type_name: ClassVar[str] = "skew.alerted.v1"

    tier: str
    kind: SkewKind
    state: Literal["raised", "cleared"]
    share: Share = Field(description="share of what was counted that is skewed")
    threshold: Share
    versions: dict[Sha256Hex, Share] = Field(description="tower version -> share of what was counted")
    serving_version: Sha256Hex | None = Field(None, description="absent while no release is known")
    since_ms: EpochMs = Field(description="event time at which this state began")
    occurred_at_ms: EpochMs
