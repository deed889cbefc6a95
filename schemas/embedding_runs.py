"""A run of the batch embedder on disk: its manifest, and one shard per partition."""

from typing import Annotated, Literal

from pydantic import Field

from .embeddings import Sha256Hex
from .ids import EpochMs
from .manifests import FileEntry, Manifest
from .tiers import BUCKETS, Tier, TierName, TierPolicy

RUN_FORMAT = 2
"""2: the buckets of the tier. A run of format 1 is taken to be of all buckets."""

SHARD_FORMAT = 1

RunId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*-[0-9a-f]{12}-[0-9]{4,}$", max_length=80)]
"""`<tier>-<first 12 digits of the tower version>-<number>`."""

Partition = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class EmbeddingRun(Manifest):
    """What a run embeds. Whoever finds its directory goes on with it."""

    format: Annotated[int, Field(ge=1, le=RUN_FORMAT)] = RUN_FORMAT
    run_id: RunId
    tier: TierName
    policy: TierPolicy
    first_bucket: Annotated[int, Field(ge=0, lt=BUCKETS)] = 0
    end_bucket: Annotated[int, Field(ge=1, le=BUCKETS)] = BUCKETS
    tower_version: Sha256Hex
    clock: Literal["event", "wall"]
    started_ms: EpochMs
    ends: dict[Partition, Count] = Field(
        description="partition of pin.features.v1 -> its end when the run began; shards reach it, or beyond"
    )

    @property
    def slice(self) -> Tier:
        """The tier as it was declared when the run began: its shards hold the Pins of these buckets."""
        return Tier(
            name=self.tier, policy=self.policy, first_bucket=self.first_bucket, end_bucket=self.end_bucket
        )


class EmbeddingShard(Manifest):
    """The Pins of one partition. `offset` figures are of pin.features.v1."""

    format: Annotated[int, Field(ge=1, le=SHARD_FORMAT)] = SHARD_FORMAT
    run_id: RunId
    partition: Partition
    first_offset: Count
    end_offset: Count = Field(description="everything before it is in the shard")
    state_rows: Count = Field(description="rows read, of all tiers")
    rows: Count
    failed: dict[int, str] = Field(description="Pin that the tower could not embed -> why; it has no row")
    unreadable: dict[int, str] = Field(description="offset of a row that is no Pin state -> why")
    files: list[FileEntry]


class AssembledRun(Manifest):
    """The run is over: this snapshot holds all of it."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    snapshot_id: str
    rows: Count
    failed: Count
    unreadable: Count
