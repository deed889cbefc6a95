"""What every artefact on disk says about itself. JSON, read before anything else is.

A manifest lists each file of its directory with size and sha256; a reader checks those before it
parses a byte (FAISS loads a bit-flipped file without a word). Unknown keys and a `format` from the
future are refused: an old reader must not guess at a new artefact.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from .embeddings import Sha256Hex
from .ids import EpochMs
from .tiers import TierName, TierPolicy, VersionPolicy

TOWER_FORMAT = 1
SNAPSHOT_FORMAT = 2
RELEASE_FORMAT = 2

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
"""A plain file name: no separator, so a manifest cannot point outside its directory."""

Offsets = dict[str, dict[int, int]]
"""Topic -> partition -> next offset to read: everything before it is covered."""


class Manifest(BaseModel):
    """Frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileEntry(Manifest):
    """One file of the artefact."""

    name: FileName
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256Hex


class Calibration(Manifest):
    """pctr = sigmoid(slope * dot + intercept) (Platt scaling, fitted on held-out requests)."""

    slope: float = 1.0
    intercept: float = 0.0


class TowerManifest(Manifest):
    """One two-tower checkpoint. `tower_version` is the content hash of all that decides a vector."""

    format: Annotated[int, Field(ge=1, le=TOWER_FORMAT)] = TOWER_FORMAT
    tower_version: Sha256Hex
    family: str
    dimension: Annotated[int, Field(ge=1, le=4096)]
    normalised: bool = Field(description="Pin vectors have unit length")
    registry_hash: Sha256Hex
    query_inputs: list[str]
    pin_inputs: list[str]
    config: dict[str, int | float | str | bool]
    calibration: Calibration
    trained_from_ms: EpochMs
    trained_until_ms: EpochMs
    seed: int
    metrics: dict[str, float] = Field(default_factory=dict)
    files: list[FileEntry]


class SnapshotManifest(Manifest):
    """The Pin embeddings of one tier and one hour. Holds no wall clock, so a re-cut is byte-identical.

    A `stream` snapshot was cut from pin.embedded.v1, and `offsets` are of that topic; a `batch` one was
    embedded all at once from the states on pin.features.v1 below its `offsets`.
    """

    format: Annotated[int, Field(ge=1, le=SNAPSHOT_FORMAT)] = SNAPSHOT_FORMAT
    snapshot_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=120)]
    tier: TierName
    source: Literal["stream", "batch"] = "stream"
    hour_ms: EpochMs = Field(description="start of the hour that the cut closes, in event time or wall clock")
    clock: Literal["event", "wall"]
    rows: Annotated[int, Field(ge=0)]
    dimension: Annotated[int, Field(ge=1, le=4096)]
    dtype: Literal["float16", "float32"] = "float16"
    versions: dict[Sha256Hex, int] = Field(description="rows per tower version, counted from the rows")
    pin_inputs: list[str] = Field(description="what bit i of a row's input_mask stands for")
    offsets: Offsets
    newest_event_ms: EpochMs
    newest_ingest_ms: EpochMs
    files: list[FileEntry]


class IndexSpec(Manifest):
    """How the FAISS index of a release was built."""

    kind: Literal["flat", "ivf", "hnsw"]
    metric: Literal["inner_product"] = "inner_product"
    rows: Annotated[int, Field(ge=0)]
    dimension: Annotated[int, Field(ge=1, le=4096)]
    tower_version: Sha256Hex
    parameters: dict[str, int] = Field(default_factory=dict)


class CheckResult(Manifest):
    """One check of a release before it may be published."""

    name: str
    ok: bool
    detail: str


class TierPart(Manifest):
    """What one tier gave to a release: which snapshot, how far it reaches, and so how far it is behind."""

    policy: TierPolicy
    snapshot_id: str
    hour_ms: EpochMs
    rows: Annotated[int, Field(ge=0)]
    versions: dict[Sha256Hex, int] = Field(description="rows per tower version")
    offsets: Offsets
    newest_event_ms: EpochMs
    newest_ingest_ms: EpochMs


class ReleaseManifest(Manifest):
    """Query tower, Pin index, calibration, registry, snapshots and offsets that belong together.

    `tier`, `hour_ms` and the newest moments are those of the freshest tier, `snapshot_id` the ids of all,
    the freshest first, joined by `+`, `offsets` what all of them together cover (of each partition the
    least); `tiers` has each by itself. Format 1 knew one tier and no policy.
    """

    format: Annotated[int, Field(ge=1, le=RELEASE_FORMAT)] = RELEASE_FORMAT
    release_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=120)]
    tower_version: Sha256Hex = Field(description="of the query tower; the index must say the same")
    index: IndexSpec
    calibration: Calibration
    registry_hash: Sha256Hex
    snapshot_id: str
    tier: str
    hour_ms: EpochMs
    tiers: dict[TierName, TierPart] = Field(default_factory=dict, description="empty in format 1")
    version_policy: VersionPolicy = Field(
        "enforce", description="`tolerate`: rows of several tower versions, to be served only when asked for"
    )
    rankers: dict[str, Sha256Hex] = Field(default_factory=dict, description="stage -> ranker checkpoint")
    offsets: Offsets
    newest_event_ms: EpochMs
    newest_ingest_ms: EpochMs
    checks: list[CheckResult]
    files: list[FileEntry]
