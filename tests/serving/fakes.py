"""Stand-ins for a query tower and an index, with contents that are obvious from their arguments."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.pin_state import STATUS_CODES
from index.snapshots import ATTRIBUTES
from index.vector_index import Bitmap, ExactIndex
from schemas.manifests import Calibration, IndexSpec, ReleaseManifest
from serving.clock import Clock
from serving.live_release import Assembly, LiveRelease, assemble

NOON_MS = 1_700_000_000_000 // 86_400_000 * 86_400_000 + 43_200_000
HOUR_MS = 3_600_000
REGISTRY_HASH = hashlib.sha256(b"registry").hexdigest()
DIMENSION = 4

Records = npt.NDArray[np.void]


def version(name: str) -> str:
    """A tower version by a readable name."""
    return hashlib.sha256(name.encode()).hexdigest()


def pins(count: int, **columns: object) -> Records:
    """Eligible Pins 100, 101, …: active, bid 10,000 micros, budget of 1,000 bids, one advertiser each."""
    rows: Records = np.zeros(count, ATTRIBUTES)
    rows["pin_id"] = np.arange(100, 100 + count)
    rows["advertiser_id"] = np.arange(1, 1 + count)
    rows["bid_micros"] = 10_000
    rows["daily_budget_micros"] = 10_000_000
    rows["status"] = STATUS_CODES["active"]
    rows["ingested_at_ms"] = NOON_MS - HOUR_MS
    rows["occurred_at_ms"] = NOON_MS - HOUR_MS
    rows["input_mask"] = 3
    for name, values in columns.items():
        rows[name] = values
    return rows


def vectors(dots: Sequence[float] | npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    """Pin vectors whose dot product with the fake query (1, 0, 0, 0) is `dots`."""
    matrix = np.zeros((len(dots), DIMENSION), np.float16)
    matrix[:, 0] = dots
    return matrix


class FakeTower:
    """Embeds everyone as (scale, 0, 0, 0)."""

    def __init__(self, version: str, dimension: int = DIMENSION, scale: float = 1.0) -> None:
        self.version, self.dimension, self.scale = version, dimension, scale

    def embed(self, users: Records, contexts: Records) -> npt.NDArray[np.float32]:
        found = np.zeros((len(users), self.dimension), np.float32)
        found[:, 0] = self.scale
        return found


@dataclass
class FakeIndex:
    """Exact search over given rows."""

    manifest: ReleaseManifest
    attributes: Records
    vectors: npt.NDArray[np.float16]
    tower_version: str
    versions: list[str]
    version_code: npt.NDArray[np.uint8]
    titles: pa.StringArray
    closed: bool = field(default=False)

    def search(
        self, query: npt.NDArray[np.float32], k: int, allowed: Bitmap | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        return ExactIndex(self.vectors).search(query, k, allowed)

    def close(self) -> None:
        self.closed = True


def manifest(
    release_id: str, tower: str, rows: int, *, registry_hash: str = REGISTRY_HASH, newest_ms: int = NOON_MS
) -> ReleaseManifest:
    return ReleaseManifest(
        release_id=release_id,
        tower_version=tower,
        index=IndexSpec(kind="flat", rows=rows, dimension=DIMENSION, tower_version=tower),
        calibration=Calibration(slope=1.0, intercept=0.0),
        registry_hash=registry_hash,
        snapshot_id=f"snapshot-of-{release_id}",
        tier="realtime",
        hour_ms=NOON_MS,
        offsets={},
        newest_event_ms=newest_ms,
        newest_ingest_ms=newest_ms,
        checks=[],
        files=[],
    )


def fake_index(
    release_id: str,
    tower: str,
    attributes: Records,
    dots: Sequence[float] | npt.NDArray[np.floating] | None = None,
    *,
    newest_ms: int = NOON_MS,
) -> FakeIndex:
    """An index whose rows score `dots`; falling by row when none are given."""
    count = len(attributes)
    scores = np.linspace(1, 0, count) if dots is None else dots
    return FakeIndex(
        manifest=manifest(release_id, tower, count, newest_ms=newest_ms),
        attributes=attributes,
        vectors=vectors(scores),
        tower_version=tower,
        versions=[tower],
        version_code=np.zeros(count, np.uint8),
        titles=pa.array([f"Pin {pin}" for pin in attributes["pin_id"].tolist()], pa.string()),
    )


def live(index: FakeIndex, assembly: Assembly) -> LiveRelease:
    """`index` with a query tower of its version, checked and warmed."""
    return assemble(index, FakeTower(index.tower_version), ("price", "content"), assembly)


class FakeClock:
    """A clock that stands still until it is moved; `seconds` ticks a millisecond a look."""

    def __init__(self, now_ms: int = NOON_MS) -> None:
        self.now = now_ms
        self.steady = 0.0

    def clock(self) -> Clock:
        return Clock(now_ms=lambda: self.now, seconds=self._tick)

    def _tick(self) -> float:
        self.steady += 0.001
        return self.steady
