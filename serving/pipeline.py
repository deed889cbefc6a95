"""The spine: lease → query tower → retrieval → L1 → auction → answer and log.

One lease per request: `rank` takes it once, and every stage below gets its tower, index, calibration and
eligibility from that one `LiveRelease`. Nothing here looks a release up by name.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from index.handle import Handle
from schemas.errors import Refused
from schemas.ranking import RankRequest

from .auction import AuctionPolicy, AuctionResult, Candidates, hold_auction, pctr_parts_per_billion
from .clock import Clock
from .eligibility import Rule
from .ledger import Charge, SpendLedger
from .live_release import Awaiting, LiveRelease, Served, exact_dots
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
class Retrieved:
    """Rows that retrieval found, best first by the index, and whether the mask allows them (it should)."""

    rows: Rows
    eligible: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shortlist:
    """What L1 kept: rows of the index, exact dot products, and calibrated probabilities."""

    rows: Rows
    dots: Floats
    pctr: npt.NDArray[np.float64]
    eligible: npt.NDArray[np.bool_]


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
        handle: Handle[Served],
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
            return self._funnel(release, request)

    def _funnel(self, release: LiveRelease, request: RankRequest) -> Ranked:
        now_ms = self._clock.now_ms()
        at_ms = now_ms if request.occurred_at_ms is None else request.occurred_at_ms
        laps = _Laps(self._clock.seconds)
        asker = self._users.read(request, at_ms)
        query = embed_query(release, asker, laps)
        retrieved = retrieve(release, query, asker.age_band, at_ms, self._policy.retrieve, laps)
        shortlist, dots = score_l1(release, query, retrieved, self._policy.keep, laps)
        sale = self._sell(release, shortlist, request.slots, at_ms, laps)
        return Ranked(
            request=request,
            request_id=request.request_id or self._new_request_id(),
            occurred_at_ms=at_ms,
            served_at_ms=now_ms,
            provenance=provenance(release),
            asker=asker,
            query=query,
            retrieved_pins=release.ads.pin_id[retrieved.rows],
            retrieved_dots=dots,
            shortlist_pins=release.ads.pin_id[shortlist.rows],
            sale=sale,
            ads=sold(release, shortlist, sale),
            stages=tuple(laps.stages),
            duration_seconds=laps.total(),
        )

    def _sell(
        self, release: LiveRelease, shortlist: Shortlist, slots: int, at_ms: int, laps: _Laps
    ) -> AuctionResult:
        """Hold the auction over what the ledger says is left, and charge the winners, under one lock."""
        ads, rows = release.ads, shortlist.rows
        pins, advertisers = ads.pin_id[rows], ads.advertiser_id[rows]
        bids, budgets = ads.bid_micros[rows], ads.daily_budget_micros[rows]
        parts = pctr_parts_per_billion(shortlist.pctr)
        day = self._ledger.day_of(at_ms)
        with self._ledger.lock:
            left = budgets - np.array(self._ledger.spent(day, pins.tolist()), np.int64)
            candidates = Candidates(pins, advertisers, bids, parts, left, shortlist.eligible)
            sale = hold_auction(candidates, slots, self._policy.auction)
            won = [win.row for win in sale.wins]
            prices = [win.price_micros for win in sale.wins]
            self._ledger.charge(day, map(Charge, pins[won].tolist(), advertisers[won].tolist(), prices))
        left[won] -= np.array(prices, np.int64)
        spent_out = np.flatnonzero(left < bids)
        if len(spent_out):
            release.eligibility.exhaust(day, rows[spent_out])
        laps.lap("auction", len(rows), len(sale.wins), sale.dropped())
        return sale


def embed_query(release: LiveRelease, asker: Asker, laps: _Laps) -> Floats:
    """The release's own query tower turns the user and the moment into one vector."""
    query: Floats = release.query_tower.embed(asker.users, asker.contexts)[0]
    laps.lap("query_tower", 1, 1, {})
    return query


def retrieve(
    release: LiveRelease, query: Floats, age_band: int, at_ms: int, width: int, laps: _Laps
) -> Retrieved:
    """The `width` best Pins that may be shown to this asker now, by the release's index."""
    mask = release.eligibility.mask(age_band, at_ms)
    _, rows = release.index.search(query, width, mask.bitmap)
    dropped = dict(mask.dropped)
    total = len(mask.codes)
    dropped["not_retrieved"] = total - sum(dropped.values()) - len(rows)
    laps.lap("retrieval", total, len(rows), {reason: count for reason, count in dropped.items() if count})
    return Retrieved(rows, mask.codes[rows] == Rule.ELIGIBLE)


def score_l1(
    release: LiveRelease, query: Floats, retrieved: Retrieved, keep: int, laps: _Laps
) -> tuple[Shortlist, Floats]:
    """Exact dot products with the release's L1 vectors; the `keep` highest go on.

    Ties at the cut go to the lower row, which is the lower Pin id. Returns the short list and the dot
    products of everything retrieved.
    """
    rows = retrieved.rows
    dots = exact_dots(release, rows, query)
    kept = _best(dots, rows, keep)
    calibration = release.manifest.calibration
    logits = calibration.slope * dots[kept].astype(np.float64) + calibration.intercept
    pctr = 1.0 / (1.0 + np.exp(-np.clip(logits, -500.0, 500.0)))
    cut = len(rows) - len(kept)
    laps.lap("l1", len(rows), len(kept), {"below_l1_cut": cut} if cut else {})
    return Shortlist(rows[kept], dots[kept], pctr, retrieved.eligible[kept]), dots


def _best(dots: Floats, rows: Rows, keep: int) -> npt.NDArray[np.intp]:
    """Positions of the `keep` highest dots, in no particular order; ties by row."""
    if len(dots) <= keep:
        return np.arange(len(dots))
    threshold = np.partition(dots, -keep)[-keep]
    above, level = np.flatnonzero(dots > threshold), np.flatnonzero(dots == threshold)
    by_row = level[np.argsort(rows[level], kind="stable")]
    return np.concatenate([above, by_row[: keep - len(above)]])


def provenance(release: LiveRelease) -> Provenance:
    """Who computed and who held the vectors of an answer from `release`."""
    manifest = release.manifest
    return Provenance(
        release_id=manifest.release_id,
        snapshot_id=manifest.snapshot_id,
        registry_hash=manifest.registry_hash,
        query_tower_version=release.query_tower.version,
        pin_tower_version=release.index.tower_version,
    )


def sold(release: LiveRelease, shortlist: Shortlist, sale: AuctionResult) -> tuple[Sold, ...]:
    """The winners, best first, in plain values."""
    won = [win.row for win in sale.wins]
    rows = shortlist.rows[won]
    ads = release.ads
    titles, versions = release.index.titles, release.index.versions
    return tuple(
        map(
            Sold,
            ads.pin_id[rows].tolist(),
            ads.advertiser_id[rows].tolist(),
            [versions[code] for code in release.index.version_code[rows].tolist()],
            [titles[row].as_py() or "" for row in rows.tolist()],
            shortlist.dots[won].tolist(),
            shortlist.pctr[won].tolist(),
            ads.bid_micros[rows].tolist(),
            [win.price_micros for win in sale.wins],
            [win.priced_by_pin for win in sale.wins],
        )
    )
