"""`skewless funnel`: what the L1 cut of the live release costs, on real later baskets as queries."""

import polars as pl

from datasets.complete_journey import Journey
from evaluation.l1_cut import CutRecall, L1CutPolicy, cut_recall
from features.definitions import registry
from features.store import RocksStore
from features.user_state import USER_RECORD, contexts
from index.loading import load_index
from models.predictor import QueryTower
from schemas.errors import Refused
from serving.auction import AuctionPolicy
from serving.eligibility import Eligibility, Rule
from serving.ledger import SpendLedger

from .settings import Settings
from .store_connection import release_store


def live_cut_recall(settings: Settings, queries: int, first_week: int, seed: int) -> CutRecall:
    """Recall of the L1 cut of the live release. Raises Refused without a release or without users."""
    store = release_store(settings)
    current = store.current()
    if current is None or not settings.users_dir.is_dir():
        raise Refused(
            "no_release",
            expected="a live release and users in " + str(settings.data_dir),
            came="none",
            fix="Run `skewless demo` first, or set SKEWLESS_DATA_DIR.",
        )
    index = load_index(store, current, registry_hash=registry().content_hash)
    tower = QueryTower.load(settings.towers_dir, index.tower_version, registry())
    baskets = Journey.installed().engagements().filter(pl.col("week") >= first_week).unique("basket_id")
    chosen = baskets.sort("basket_id").sample(min(queries, baskets.height), seed=seed)
    with RocksStore(settings.users_dir, USER_RECORD, read_only=True) as users_store:
        users, _, _ = users_store.get_many(chosen["user_id"].to_numpy())
    at_ms = chosen["occurred_at_ms"].to_numpy()
    policy = L1CutPolicy(auction=AuctionPolicy(reserve_micros=settings.reserve_price_micros))
    mask = Eligibility(index.attributes, policy.auction.reserve_micros, SpendLedger()).mask(
        0, int(at_ms.max())
    )
    return cut_recall(
        index.attributes,
        index.vectors,
        mask.codes == Rule.ELIGIBLE,
        tower.embed(users, contexts(users, at_ms)),
        index.manifest.calibration,
        policy,
        seed=seed,
    )
