"""The spine: lease → query tower → retrieval → L1 → auction → answer and log.

One lease per request: `rank` takes it once, and every stage below gets its tower, calibration and
Pins from that one release: `inventory()` is asked once, so no request sees half a refresh. Nothing here
looks a release up by name, or knows whether its Pins lie in this process.
"""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from schemas.errors import Refused
from schemas.manifests import Calibration, ReleaseManifest
from schemas.ranking import RankRequest

from .auction import AuctionPolicy, AuctionResult, Candidates, hold_auction, pctr_parts_per_billion
from .clock import Clock
from .inventory import Described, Found, Inventory, LoggedPin
from .ledger import Charge, SpendLedger
from .live_release import Awaiting, QueryEmbedder
from .ranked import Provenance, Ranked, Sold, Stage
from .user_reader import Asker, UserReader

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class NoRelease(Refused):
    """Nothing to answer from: no release has been loaded yet."""

    def __init__(self) -> None:
        super().__init__(
            "no_release",
            expected="a published release",
            came="none loaded yet",
            fix="Publish a release, or wait until the first one is loaded; then ask again.",
        )


@dataclass(frozen=True)
class FunnelPolicy:
    """Widths of the funnel and the rules of its auction."""

    retrieve: int = 1_000
    keep: int = 200
    auction: AuctionPolicy = field(default_factory=AuctionPolicy)


@dataclass(frozen=True)
class Shortlist:
    """What L1 kept: rows of the inventory, what they are, exact dot products, calibrated probabilities."""

    rows: Rows
    ads: Described
    dots: Floats
    pctr: npt.NDArray[np.float64]
    eligible: npt.NDArray[np.bool_]


class Answering(Protocol):
    """What a request needs of a release, wherever its Pins lie."""

    @property
    def manifest(self) -> ReleaseManifest:
        """The release's manifest."""
        ...

    @property
    def query_tower(self) -> QueryEmbedder:
        """What computes the query embedding."""
        ...

    @property
    def pin_tower_version(self) -> str:
        """What the Pins' embeddings were proved to be of."""
        ...

    def inventory(self) -> Inventory:
        """The Pins as they are now, as one view that does not change."""
        ...


class Leasing(Protocol):
    """Gives out leases on what is current: an `index.handle.Handle`."""

    def lease(self) -> AbstractContextManager[Answering | Awaiting]:
        """What is current, held for one request."""
        ...


class _Laps:
    """Collects the stages of one request, each timed from the end of the one before."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self.started = self._last = seconds()
        self.stages: list[Stage] = []

    def lap(self, stage: str, came: int, left: int, dropped: dict[str, int]) -> None:
        now = self._seconds()
        self.stages.append(Stage(stage, came, left, now - self._last, dropped))
        self._last = now

    def total(self) -> float:
        return self._seconds() - self.started


class Pipeline:
    """Answers ranking queries from whatever release is live when each of them starts."""

    def __init__(
        self,
        handle: Leasing,
        users: UserReader,
        ledger: SpendLedger,
        policy: FunnelPolicy,
        clock: Clock,
        new_request_id: Callable[[], str],
    ) -> None:
        self._handle = handle
        self._users = users
        self._ledger = ledger
        self._policy = policy
        self._clock = clock
        self._new_request_id = new_request_id

    def rank(self, request: RankRequest) -> Ranked:
        """Answer one query. Raises NoRelease before the first release is loaded."""
        with self._handle.lease() as release:
            if isinstance(release, Awaiting):
                raise NoRelease
            return self._funnel(release, release.inventory(), request)

    def _funnel(self, release: Answering, inventory: Inventory, request: RankRequest) -> Ranked:
        now_ms = self._clock.now_ms()
        at_ms = now_ms if request.occurred_at_ms is None else request.occurred_at_ms
        laps = _Laps(self._clock.seconds)
        asker = self._users.read(request, at_ms)
        query = embed_query(release, asker, laps)
        found = retrieve(inventory, query, asker.age_band, at_ms, self._policy.retrieve, laps)
        ads = inventory.describe(found.rows)
        shortlist = score_l1(release.manifest.calibration, found, ads, self._policy.keep, laps)
        sale = self._sell(inventory, shortlist, request.slots, at_ms, laps)
        return Ranked(
            request=request,
            request_id=request.request_id or self._new_request_id(),
            occurred_at_ms=at_ms,
            served_at_ms=now_ms,
            provenance=provenance(release),
            asker=asker,
            query=query,
            # A column of a table four times its size, which would be kept with it.
            retrieved_pins=ads.pin_id.copy(),
            retrieved_dots=found.dots,
            shortlist_pins=shortlist.ads.pin_id,
            sale=sale,
            ads=sold(inventory, shortlist, sale),
            version_mix=version_mix(inventory.versions, ads),
            coverage=inventory.coverage(),
            stages=tuple(laps.stages),
            duration_seconds=laps.total(),
        )

    def _sell(
        self, inventory: Inventory, shortlist: Shortlist, slots: int, at_ms: int, laps: _Laps
    ) -> AuctionResult:
        """Hold the auction over what the ledger says is left, and charge the winners, under one lock."""
        ads, rows = shortlist.ads, shortlist.rows
        parts = pctr_parts_per_billion(shortlist.pctr)
        day = self._ledger.day_of(at_ms)
        with self._ledger.lock:
            left = ads.daily_budget_micros - np.array(self._ledger.spent(day, ads.pin_id.tolist()), np.int64)
            candidates = Candidates(
                ads.pin_id, ads.advertiser_id, ads.bid_micros, parts, left, shortlist.eligible
            )
            sale = hold_auction(candidates, slots, self._policy.auction)
            won = [win.row for win in sale.wins]
            prices = [win.price_micros for win in sale.wins]
            charges = map(Charge, ads.pin_id[won].tolist(), ads.advertiser_id[won].tolist(), prices)
            self._ledger.charge(day, list(charges), today=self._ledger.day_of(self._clock.now_ms()))
        left[won] -= np.array(prices, np.int64)
        spent_out = np.flatnonzero(left < ads.bid_micros)
        if len(spent_out):
            inventory.exhaust(day, rows[spent_out])
        laps.lap("auction", len(rows), len(sale.wins), sale.dropped())
        return sale


def embed_query(release: Answering, asker: Asker, laps: _Laps) -> Floats:
    """The release's own query tower turns the user and the moment into one vector."""
    query: Floats = release.query_tower.embed(asker.users, asker.contexts)[0]
    laps.lap("query_tower", 1, 1, {})
    return query


def retrieve(
    inventory: Inventory, query: Floats, age_band: int, at_ms: int, width: int, laps: _Laps
) -> Found:
    """The `width` best Pins that may be shown to this asker now, with their exact dot products."""
    found = inventory.search(query, age_band, at_ms, width)
    laps.lap("retrieval", found.total, len(found.rows), found.dropped)
    return found


def score_l1(calibration: Calibration, found: Found, ads: Described, keep: int, laps: _Laps) -> Shortlist:
    """The `keep` highest dot products go on, calibrated to probabilities.

    Ties at the cut go to the lower Pin id.
    """
    kept = _best(found.dots, ads.pin_id, keep)
    logits = calibration.slope * found.dots[kept].astype(np.float64) + calibration.intercept
    pctr = 1.0 / (1.0 + np.exp(-np.clip(logits, -500.0, 500.0)))
    cut = len(found.rows) - len(kept)
    laps.lap("l1", len(found.rows), len(kept), {"below_l1_cut": cut} if cut else {})
    return Shortlist(found.rows[kept], _picked(ads, kept), found.dots[kept], pctr, found.eligible[kept])


def _best(dots: Floats, pins: Rows, keep: int) -> npt.NDArray[np.intp]:
    """Positions of the `keep` highest dots, in no particular order; ties by Pin id."""
    if len(dots) <= keep:
        return np.arange(len(dots))
    threshold = np.partition(dots, -keep)[-keep]
    above, level = np.flatnonzero(dots > threshold), np.flatnonzero(dots == threshold)
    by_pin = level[np.argsort(pins[level], kind="stable")]
    return np.concatenate([above, by_pin[: keep - len(above)]])


def _picked(ads: Described, places: npt.NDArray[np.intp]) -> Described:
    return Described(
        ads.pin_id.take(places),
        ads.advertiser_id.take(places),
        ads.bid_micros.take(places),
        ads.daily_budget_micros.take(places),
        ads.version_code.take(places),
        ads.fresh.take(places),
    )


def version_mix(versions: list[str], ads: Described) -> dict[str, int]:
    """Pins that were scored, by the tower version that their own row is tagged with."""
    counts = np.bincount(ads.version_code, minlength=len(versions)).tolist()
    return {version: count for version, count in zip(versions, counts, strict=True) if count}


def provenance(release: Answering) -> Provenance:
    """Who computed and who held the vectors of an answer from `release`."""
    manifest = release.manifest
    return Provenance(
        release_id=manifest.release_id,
        snapshot_id=manifest.snapshot_id,
        registry_hash=manifest.registry_hash,
        query_tower_version=release.query_tower.version,
        pin_tower_version=release.pin_tower_version,
        version_policy=manifest.version_policy,
    )


def sold(inventory: Inventory, shortlist: Shortlist, sale: AuctionResult) -> tuple[Sold, ...]:
    """The winners, best first, in plain values."""
    won = [win.row for win in sale.wins]
    ads, versions = _picked(shortlist.ads, np.array(won, np.intp)), inventory.versions
    return tuple(
        map(
            Sold,
            ads.pin_id.tolist(),
            ads.advertiser_id.tolist(),
            [versions[code] for code in ads.version_code.tolist()],
            inventory.titles(shortlist.rows[won]),
            shortlist.dots[won].tolist(),
            shortlist.pctr[won].tolist(),
            ads.bid_micros.tolist(),
            [win.price_micros for win in sale.wins],
            [win.priced_by_pin for win in sale.wins],
            ads.daily_budget_micros.tolist(),
            itertools.starmap(LoggedPin, inventory.logged(shortlist.rows[won]).tolist()),
            ads.fresh.tolist(),
        )
    )
