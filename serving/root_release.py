"""A release as a root has it: manifest, calibration and query tower here, every Pin on a leaf."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.user_state import contexts, empty_users
from index.object_store import StoreRefused
from index.row_files import ATTRIBUTES
from index.vector_index import Bitmap
from models.predictor import QueryTower
from schemas.errors import Refused, RetryableError
from schemas.manifests import ReleaseManifest

from .eligibility import Eligibility
from .fresh_inventory import Shelf
from .inventory import Floats, Inventory, Rows
from .kept_manifest import KeptManifest
from .live_release import WARM_QUERIES, LiveRelease, ReleaseLoader
from .local_inventory import Ads, LocalInventory
from .release_watcher import Source
from .remote_inventory import RemoteInventory, SpentOut
from .remote_leaves import Leaves
from .version_policy import check_policy


class NoRows:
    """The index of a process that holds none of the release's rows."""

    def __init__(self, manifest: ReleaseManifest) -> None:
        self.manifest = manifest
        self.versions = [manifest.tower_version]
        self.version_code: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self.attributes: npt.NDArray[np.void] = np.empty(0, ATTRIBUTES)
        self.vectors: npt.NDArray[np.float16] = np.empty((0, manifest.index.dimension), np.float16)
        self.titles = pa.array([], pa.string())

    @property
    def tower_version(self) -> str:
        """What the manifest says; each leaf has proved it of its own rows, and says so with every answer."""
        return self.manifest.tower_version

    def search(self, query: Floats, k: int, allowed: Bitmap | None) -> tuple[Floats, Rows]:
        """Finds nothing."""
        return np.empty(0, np.float32), np.empty(0, np.int64)

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RootRelease(LiveRelease):
    """A release whose rows are on leaves. A lease on it pins one release id for every leaf."""

    leaves: Leaves
    spent_out: SpentOut

    def inventory(self) -> Inventory:
        """A view for one request."""
        return RemoteInventory(self.leaves, self.manifest, self.spent_out)

    def __len__(self) -> int:
        """Pins of the whole release."""
        return self.manifest.index.rows


@dataclass(frozen=True)
class RootLoader:
    """Makes `RootRelease`s of the manifests and towers that `local` would read."""

    local: ReleaseLoader
    leaves: Leaves
    spent_out: SpentOut
    kept: KeptManifest

    def served_last(self) -> str | None:
        """What to begin with while the store is away: what was loaded last, not what CURRENT named last."""
        seen, kept = self.local.releases.last_seen(), self.kept.read()
        return seen if seen is None or kept is None else kept.release_id

    def manifest(self, release_id: str) -> ReleaseManifest:
        """The store's word, or while it is away what was kept. Sees to it that the tower is there."""
        releases = self.local.releases
        try:
            manifest = releases.manifest(release_id)
        except (StoreRefused, RetryableError, OSError):
            kept = self.kept.read()
            if kept is None or kept.release_id != release_id:
                raise
            manifest = kept
        releases.fetch_tower(manifest.tower_version)
        return manifest

    def load(self, release_id: str) -> LiveRelease:
        """Load → check → warm. Raises Refused for a release that does not fit this code or its tower."""
        local, assembly = self.local, self.local.assembly
        manifest = self.manifest(release_id)
        tower = QueryTower.load(local.towers, manifest.tower_version, local.registry)
        check_parts(manifest, tower, assembly.registry_hash)
        check_policy(manifest, claimed_mix(manifest), assembly.version_policy)
        index = NoRows(manifest)
        eligibility = Eligibility(index.attributes, assembly.policy.reserve_micros, assembly.ledger)
        local_rows = LocalInventory(index, Ads(index.attributes), eligibility)
        release = RootRelease(
            index=index,
            query_tower=tower,
            eligibility=eligibility,
            local=local_rows,
            shelf=Shelf(local_rows),
            version_mix=claimed_mix(manifest),
            coverage={},
            loaded_at_ms=assembly.now_ms(),
            leaves=self.leaves,
            spent_out=self.spent_out,
        )
        warm(release, assembly.now_ms())
        self.kept.keep(manifest)
        return release


def claimed_mix(manifest: ReleaseManifest) -> dict[str, int]:
    """Rows per tower version, by the manifest: a root has no rows to count."""
    mix: Counter[str] = Counter()
    for part in manifest.tiers.values():
        mix.update(part.versions)
    return dict(mix) or {manifest.tower_version: manifest.index.rows}


def check_parts(manifest: ReleaseManifest, tower: QueryTower, registry_hash: str) -> None:
    """Refuse a manifest of another registry, or one whose tower is another than it names."""
    if manifest.registry_hash != registry_hash:
        fix = "Build the release with this code's registry, or deploy the code that it was built with."
        came = f"{manifest.registry_hash[:12]} in release {manifest.release_id}"
        raise Refused("registry_mismatch", f"feature registry {registry_hash[:12]}", came, fix)
    if not tower.version == manifest.tower_version == manifest.index.tower_version:
        fix = "Rebuild the release from a snapshot that the manifest's tower embedded."
        expected = f"query tower and index of one version ({manifest.tower_version[:12]})"
        came = f"query tower {tower.version[:12]}, index {manifest.index.tower_version[:12]}"
        raise Refused("tower_version_mismatch", expected, came, fix)
    if tower.dimension != manifest.index.dimension:
        fix = "Rebuild the release; its files come from different builds."
        expected = f"vectors of {manifest.index.dimension} dimensions"
        raise Refused("dimension_mismatch", expected, f"query tower {tower.dimension}", fix)


def warm(release: LiveRelease, at_ms: int) -> None:
    """Embed some queries. The leaves warmed themselves before they said that they were ready."""
    users = empty_users(np.arange(WARM_QUERIES, dtype=np.int64))
    queries = release.query_tower.embed(users, contexts(users, np.full(WARM_QUERIES, at_ms, np.int64)))
    if not np.isfinite(queries).all():
        fix = "Retrain: the tower holds NaN or infinity."
        came = f"NaN or infinity in release {release.release_id}"
        raise Refused("not_finite", "finite query embeddings", came, fix)


class WhenReady:
    """CURRENT, as soon as the leaves have loaded it; until then what this root serves.

    This is the swap rule: a watcher that follows this instead of CURRENT cannot swap too soon. It waits no
    longer once fewer leaves have what is served than have CURRENT: waiting would serve fewer Pins then.
    """

    def __init__(self, current: Callable[[], str | None], leaves: Leaves) -> None:
        self._current, self._leaves = current, leaves
        self._served: str | None = None

    def serves(self, release_id: str) -> None:
        """Called when the root goes over to a release: by this rule, or at its start to one that it kept."""
        self._served = release_id

    def __call__(self) -> str | None:
        """The newest release that may be served. Raises Refused like `current`."""
        named, served = self._current(), self._served
        late = [] if named is None or named == served else self._leaves.blocking(named)
        if late and named is not None and served is not None and self._leaves.more_hold(named, served):
            late = []
        self._leaves.waited_for(len(late))
        return served if late or named is None else named


def behind_leaves(leaves: Leaves, local: ReleaseLoader) -> Source:
    """What a root's watcher follows and how it loads, in the place of CURRENT and `local.load`."""
    kept = KeptManifest(local.releases.root)
    loader = RootLoader(local, leaves, SpentOut(local.assembly.ledger), kept)
    ready = WhenReady(local.releases.current, leaves)

    def load(release_id: str) -> LiveRelease:
        release = loader.load(release_id)
        ready.serves(release_id)
        return release

    return Source(ready, load, loader.served_last)
