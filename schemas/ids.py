"""The identifiers that cross boundaries, as distinct types."""

from typing import Annotated, NewType

from pydantic import Field

PinId = Annotated[int, Field(ge=0, lt=2**63, description="id of a promoted Pin (an ad)")]
UserId = Annotated[int, Field(ge=0, lt=2**63, description="id of a user")]
AdvertiserId = Annotated[int, Field(ge=0, lt=2**63, description="id of the advertiser who pays")]
Micros = Annotated[
    int, Field(ge=0, lt=2**53, description="money, in millionths of the account's currency unit")
]
EpochMs = Annotated[
    int, Field(ge=0, lt=4_102_444_800_000, description="milliseconds since 1970-01-01T00:00Z")
]

TowerVersion = NewType("TowerVersion", str)
"""Content hash of one two-tower checkpoint: 64 hex digits, never chosen by hand."""

ReleaseId = NewType("ReleaseId", str)
SnapshotId = NewType("SnapshotId", str)
