"""One release, loaded: everything that answers a request, from one place, of one tower version.

A request takes its query tower, index, calibration and eligibility from the `LiveRelease` that it
leased. What does not fit together never becomes one: `check_fits` refuses it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from features.registry import FeatureRegistry
from features.user_state import contexts, empty_users
from index.heap import give_memory_back
from index.loading import load_index
from index.release_contract import Releases
from models.predictor import QueryTower
from schemas.errors import Refused
from schemas.events import AGE_BANDS
from schemas.manifests import ReleaseManifest
from schemas.tiers import VersionPolicy

from .auction import AuctionPolicy
from .eligibility import Eligibility
from .fresh_inventory import Shelf
from .inventory import Inventory
from .ledger import SpendLedger
from .local_inventory import Ads, LocalInventory, SearchableIndex, exact_dots
from .torch_index import place
from .version_policy import check_policy

Records = npt.NDArray[np.void]
Floats = npt.NDArray[np.float32]

WARM_QUERIES = 3


class QueryEmbedder(Protocol):
    """What serving needs of `models.predictor.QueryTower`."""

    @property
    def version(self) -> str:
        """Content hash of the checkpoint that the weights in memory came from."""
        ...

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        ...

    def embed(self, users: Records, contexts: Records) -> Floats:
        """Query embeddings, shape (N, dimension)."""
        ...


@dataclass(frozen=True, eq=False)
class LiveRelease:
    """A release ready to answer. Make it with `assemble`, which checks that its parts fit."""

    index: SearchableIndex
    query_tower: QueryEmbedder
    eligibility: Eligibility
    local: LocalInventory
    shelf: Shelf
    """Where a refresh puts the view that requests take."""
    version_mix: dict[str, int]
    """Rows per tower version, counted from the rows' own tags."""
    coverage: dict[str, float]
    """Pin input -> share of the rows that have a value for it."""
    loaded_at_ms: int

    @property
    def manifest(self) -> ReleaseManifest:
        """The index's own manifest."""
        return self.index.manifest

    @property
    def release_id(self) -> str:
        """Id of the release."""
        return self.index.manifest.release_id

    @property
    def pin_tower_version(self) -> str:
        """What the index was proved to be of."""
        return self.index.tower_version

    def inventory(self) -> Inventory:
        """The Pins as they are now: a request asks once and keeps what it got."""
        return self.shelf.view

    def __len__(self) -> int:
        """Number of Pins."""
        return len(self.local)

    def close(self) -> None:
        """Let go of the release's memory: called when its last lease has ended."""
        self.shelf.close()
        self.index.close()
        self.eligibility.close()


class Awaiting:
    """What a server's handle holds until its first release is loaded."""

    def close(self) -> None:
        """Nothing to let go of."""


Served = LiveRelease | Awaiting


def check_fits(index: SearchableIndex, tower: QueryEmbedder, registry_hash: str) -> None:
    """Refuse parts that do not belong together: registry, tower versions, dimension, empty index.

    Raises Refused with what was expected, what came and what fixes it.
    """
    manifest = index.manifest
    if manifest.registry_hash != registry_hash:
        raise Refused(
            "registry_mismatch",
            expected=f"feature registry {registry_hash[:12]}",
            came=f"{manifest.registry_hash[:12]} in release {manifest.release_id}",
            fix="Build the release with this code's registry, or deploy the code that it was built with.",
        )
    if not tower.version == index.tower_version == manifest.tower_version:
        raise Refused(
            "tower_version_mismatch",
            expected=f"query tower, Pins and manifest of one version ({manifest.tower_version[:12]})",
            came=f"query tower {tower.version[:12]}, Pin embeddings {index.tower_version[:12]}",
            fix="Rebuild the release from a snapshot that the manifest's tower embedded.",
        )
    if not tower.dimension == index.vectors.shape[1] == manifest.index.dimension:
        raise Refused(
            "dimension_mismatch",
            expected=f"vectors of {manifest.index.dimension} dimensions",
            came=f"query tower {tower.dimension}, Pin vectors {index.vectors.shape[1]}",
            fix="Rebuild the release; its files come from different builds.",
        )
    if not len(index.attributes) == index.vectors.shape[0] == manifest.index.rows > 0:
        raise Refused(
            "row_count_mismatch",
            expected=f"{manifest.index.rows} rows (at least 1) of attributes and of vectors",
            came=f"{len(index.attributes)} rows of attributes, {index.vectors.shape[0]} of vectors",
            fix="Cut a snapshot that holds Pins and rebuild the release.",
        )


@dataclass(frozen=True)
class Assembly:
    """What every release of a process is assembled with."""

    registry_hash: str
    policy: AuctionPolicy
    ledger: SpendLedger
    now_ms: Callable[[], int]
    version_policy: VersionPolicy = "enforce"


def assemble(
    index: SearchableIndex, tower: QueryEmbedder, pin_inputs: tuple[str, ...], assembly: Assembly
) -> LiveRelease:
    """Check, put together and warm one release. Raises Refused when the parts do not fit."""
    check_fits(index, tower, assembly.registry_hash)
    check_policy(index.manifest, version_mix(index), assembly.version_policy)
    eligibility = Eligibility(index.attributes, assembly.policy.reserve_micros, assembly.ledger)
    local = LocalInventory(index, Ads(index.attributes), eligibility)
    release = LiveRelease(
        index=index,
        query_tower=tower,
        eligibility=eligibility,
        local=local,
        shelf=Shelf(local),
        version_mix=version_mix(index),
        coverage=feature_coverage(index.attributes, pin_inputs),
        loaded_at_ms=assembly.now_ms(),
    )
    warm(release, assembly.now_ms())
    return release


def version_mix(index: SearchableIndex) -> dict[str, int]:
    """Rows per tower version."""
    return {
        version: int(np.count_nonzero(index.version_code == code))
        for code, version in enumerate(index.versions)
    }


def feature_coverage(attributes: Records, pin_inputs: tuple[str, ...]) -> dict[str, float]:
    """Pin input -> share of rows whose `input_mask` bit says that it was not its default."""
    masks = attributes["input_mask"]
    return {name: float(((masks >> bit) & 1).mean()) for bit, name in enumerate(pin_inputs)}


def warm(release: LiveRelease, at_ms: int) -> None:
    """Run every path that a request takes, so that the first request does not pay for cold memory.

    One mask per age band, several queries through tower and index, and the vectors of their candidates.
    Raises Refused when an answer is not finite.
    """
    users = empty_users(np.arange(WARM_QUERIES, dtype=np.int64))
    queries = release.query_tower.embed(users, contexts(users, np.full(WARM_QUERIES, at_ms, np.int64)))
    bitmaps = [release.eligibility.mask(band, at_ms).bitmap for band in range(len(AGE_BANDS) + 1)]
    for query in queries:
        for bitmap in (None, bitmaps[0], bitmaps[-1]):
            dots, rows = release.index.search(query, 1_000, bitmap)
            exact = exact_dots(release.index.vectors[rows], query)
            if not (np.isfinite(dots).all() and np.isfinite(exact).all()):
                raise Refused(
                    "not_finite",
                    expected="finite dot products from the warm-up queries",
                    came=f"NaN or infinity in release {release.release_id}",
                    fix="Retrain or rebuild: the tower or the vectors hold NaN or infinity.",
                )


@dataclass(frozen=True)
class ReleaseLoader:
    """Reads releases and towers from disk and makes `LiveRelease`s of them."""

    releases: Releases
    towers: Path
    registry: FeatureRegistry
    assembly: Assembly
    index_device: str = "cpu"

    def load(self, release_id: str) -> LiveRelease:
        """Load → check → warm. Raises Refused for a release that is broken or does not fit."""
        index = load_index(
            self.releases,
            release_id,
            registry_hash=self.registry.content_hash,
            version_policy=self.assembly.version_policy,
        )
        give_memory_back()
        place(index, self.index_device)
        tower = QueryTower.load(self.towers, index.manifest.tower_version, self.registry)
        release = assemble(index, tower, tuple(tower.manifest.pin_inputs), self.assembly)
        give_memory_back()
        return release
