"""One shard of one release, and a root's question answered from it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.registry import FeatureRegistry
from features.shard_slices import Shard
from index.loading import load_shard
from index.release_contract import Releases
from schemas.events import AGE_BANDS
from schemas.manifests import ReleaseManifest
from schemas.tiers import VersionPolicy

from .clock import Clock
from .eligibility import Eligibility, Rule
from .fresh_inventory import Shelf
from .inventory import Described, Inventory
from .leaf_releases import ShardRelease
from .ledger import SpendLedger
from .local_inventory import Ads, LocalInventory, SearchableIndex
from .shard_wire import Answer, AnswerFacts, Question
from .torch_index import place

_WARM_WIDTH = 1_000


@dataclass(frozen=True, eq=False)
class LoadedShard:
    """The rows of one shard of one release. See `leaf_releases.ShardRelease`."""

    index: SearchableIndex
    eligibility: Eligibility
    local: LocalInventory
    shelf: Shelf
    """Where a refresh puts the view that questions are answered from."""

    @property
    def manifest(self) -> ReleaseManifest:
        """The release's, counting the shard's rows."""
        return self.index.manifest

    @property
    def release_id(self) -> str:
        """Which release."""
        return self.index.manifest.release_id

    @property
    def tower_version(self) -> str:
        """What its rows were proved to be of."""
        return self.index.tower_version

    @property
    def newest_ingest_ms(self) -> int:
        """Newest event in the release's snapshots."""
        return self.index.manifest.newest_ingest_ms

    def __len__(self) -> int:
        return len(self.index.attributes)

    def inventory(self) -> Inventory:
        """The shard's Pins as they are now."""
        return self.shelf.view

    def close(self) -> None:
        """Let go of the memory."""
        # The shelf first: a refresh that is under way would lay its segment over rows that are gone.
        self.shelf.close()
        self.index.close()
        self.eligibility.close()


@dataclass(frozen=True)
class ShardLoader:
    """Reads one shard of releases: a release's files whole, to check them; of their rows it keeps 1/n."""

    releases: Releases
    registry: FeatureRegistry
    shard: Shard
    reserve_micros: int
    clock: Clock
    version_policy: VersionPolicy = "enforce"
    index_device: str = "cpu"

    def load(self, release_id: str) -> LoadedShard:
        """Load → check → warm. Raises Refused like `index.loading.load_index`."""
        index = load_shard(
            self.releases,
            release_id,
            self.shard,
            registry_hash=self.registry.content_hash,
            version_policy=self.version_policy,
        )
        place(index, self.index_device)
        index.warm()
        release = loaded_shard(index, self.reserve_micros)
        warm(release, self.clock.now_ms())
        return release


def loaded_shard(index: SearchableIndex, reserve_micros: int) -> LoadedShard:
    """The rows of `index`, ready to be searched."""
    # What was spent is the root's to know: it names the Pins that are out with every question.
    eligibility = Eligibility(index.attributes, reserve_micros, SpendLedger())
    local = LocalInventory(index, Ads(index.attributes), eligibility)
    return LoadedShard(index, eligibility, local, Shelf(local))


def warm(release: LoadedShard, at_ms: int) -> None:
    """Masks and searches, so that the first question finds memory and caches ready."""
    if not len(release):
        return
    query = release.index.vectors[0].astype(np.float32)
    for age_band in range(len(AGE_BANDS) + 1):
        release.local.search(query, age_band, at_ms, _WARM_WIDTH)


def answer(release: ShardRelease, shard: Shard, question: Question) -> Answer:
    """The best of the shard's Pins that the question asks for, without those whose budget is spent.

    As many more are looked for as the root names as spent, so that leaving them out leaves `width`.
    Raises ValueError for a query that is no vector of this release.
    """
    if not np.isfinite(question.query).all():
        raise ValueError("a query holds NaN or infinity")
    inventory = release.inventory()
    found = inventory.search(
        question.query, question.age_band, question.at_ms, question.width + len(question.spent_pins)
    )
    pins = inventory.describe(found.rows)
    out = spent_out(pins, question)
    kept = np.flatnonzero(~out)[: question.width]
    dropped = {name: count for name, count in found.dropped.items() if name != "not_retrieved"}
    if out.any():
        name = Rule.BUDGET_EXHAUSTED.name.lower()
        dropped[name] = dropped.get(name, 0) + int(out.sum())
    cut = found.total - sum(dropped.values()) - len(kept)
    coverage = inventory.coverage()
    facts = AnswerFacts(
        shard=shard.number,
        shards=shard.shards,
        release_id=release.release_id,
        tower_version=release.tower_version,
        versions=inventory.versions,
        total=found.total,
        dropped=dropped | ({"not_retrieved": cut} if cut else {}),
        pins=coverage.pins,
        fresh_pins=coverage.fresh_pins,
    )
    titles = pa.array(inventory.titles(found.rows[kept]), pa.string())
    return Answer(
        facts=facts,
        dots=found.dots[kept],
        eligible=found.eligible[kept],
        pins=picked(pins, kept),
        titles=titles,
        logged=inventory.logged(found.rows[kept]),
    )


def spent_out(pins: Described, question: Question) -> npt.NDArray[np.bool_]:
    """Whether each Pin's budget, less what the root says it has spent, no longer pays its bid."""
    if not len(question.spent_pins):
        return np.zeros(len(pins.pin_id), np.bool_)
    order = np.argsort(question.spent_pins, kind="stable")
    named, micros = question.spent_pins[order], question.spent_micros[order]
    places = np.searchsorted(named, pins.pin_id).clip(max=len(named) - 1)
    spent = np.where(named[places] == pins.pin_id, micros[places], 0)
    out: npt.NDArray[np.bool_] = pins.daily_budget_micros - spent < pins.bid_micros
    return out


def picked(pins: Described, places: npt.NDArray[np.intp]) -> Described:
    """The Pins at these places, in this order."""
    return Described(
        pins.pin_id[places],
        pins.advertiser_id[places],
        pins.bid_micros[places],
        pins.daily_budget_micros[places],
        pins.version_code[places],
        pins.fresh[places],
    )
