"""Why this ad, or why not: the last answers, stage by stage, and the fate of any one Pin in them."""

import threading
from collections import OrderedDict

import numpy as np
from pydantic import BaseModel, ConfigDict

from schemas.ranking import StageTrace

from .eligibility import Rule
from .live_release import LiveRelease
from .local_inventory import Delta
from .ranked import Ranked

REQUESTS_KEPT = 2_000

_RULES = {
    Rule.STATUS: "the Pin is not active: paused, deleted, or its status was never sent",
    Rule.NOT_STARTED: "its flight has not started",
    Rule.ENDED: "its flight is over",
    Rule.TARGETING_AGE: "it targets age bands that this asker is not known to be in",
    Rule.NO_BID: "it has no bid",
    Rule.BELOW_RESERVE: "its bid is below the reserve",
    Rule.BUDGET_EXHAUSTED: "its daily budget cannot pay its bid",
}


class PinFate(BaseModel):
    """What became of one Pin in one request."""

    model_config = ConfigDict(frozen=True)

    pin_id: int
    stage: str
    outcome: str
    reason: str
    figures: dict[str, float] = {}
    delta: Delta | None = None
    """What the delta segment does to the Pin now: newer attributes over its row, a newer embedding that
    supersedes its row, or a Pin that the release does not hold. None: nothing, or the release is gone.
    """


class Explanation(BaseModel):
    """One answered request, stage by stage."""

    model_config = ConfigDict(frozen=True)

    request_id: str
    release_id: str
    snapshot_id: str
    query_tower_version: str
    pin_tower_version: str
    occurred_at_ms: int
    user_known: bool
    stages: list[StageTrace]
    winners: list[PinFate]
    pin: PinFate | None = None


class Explanations:
    """The last `REQUESTS_KEPT` answers by request id; a repeated id keeps the newer one."""

    def __init__(self, keep: int = REQUESTS_KEPT) -> None:
        self._keep = keep
        self._ring: OrderedDict[str, Ranked] = OrderedDict()
        self._lock = threading.Lock()

    def record(self, ranked: Ranked) -> None:
        """Remember an answer."""
        with self._lock:
            self._ring.pop(ranked.request_id, None)
            self._ring[ranked.request_id] = ranked
            if len(self._ring) > self._keep:
                self._ring.popitem(last=False)

    def find(self, request_id: str) -> Ranked | None:
        """The answer given under `request_id`, while it is remembered."""
        with self._lock:
            return self._ring.get(request_id)


def explain(ranked: Ranked, pin_id: int | None, release: LiveRelease | None) -> Explanation:
    """The funnel of one answer, and the fate of `pin_id` in it when one is asked about.

    `release` is the leased release that answered, or None when it is not served any more.
    """
    source = ranked.provenance
    return Explanation(
        request_id=ranked.request_id,
        release_id=source.release_id,
        snapshot_id=source.snapshot_id,
        query_tower_version=source.query_tower_version,
        pin_tower_version=source.pin_tower_version,
        occurred_at_ms=ranked.occurred_at_ms,
        user_known=ranked.asker.known,
        stages=[StageTrace.model_validate(vars(stage)) for stage in ranked.stages],
        winners=[pin_fate(ranked, ad.pin_id, release) for ad in ranked.ads],
        pin=None if pin_id is None else pin_fate(ranked, pin_id, release),
    )


def pin_fate(ranked: Ranked, pin_id: int, release: LiveRelease | None) -> PinFate:
    """The stage that decided about `pin_id`, and why."""
    on_shortlist = np.flatnonzero(ranked.shortlist_pins == pin_id)
    retrieved = np.flatnonzero(ranked.retrieved_pins == pin_id)
    if len(on_shortlist):
        fate = _auction_fate(ranked, pin_id, int(on_shortlist[0]))
    elif len(retrieved):
        fate = _l1_fate(ranked, pin_id, int(retrieved[0]))
    else:
        return _retrieval_fate(ranked, pin_id, release)
    if release is None:
        return fate
    found = release.shelf.view.standing(pin_id, ranked.asker.age_band, ranked.occurred_at_ms)
    return fate.model_copy(update={"delta": None if found is None else found.delta})


def _auction_fate(ranked: Ranked, pin_id: int, row: int) -> PinFate:
    sale = ranked.sale
    fate = sale.fates[row]
    utilities = sale.utilities.tolist()
    # Utility in micros: bid x pctr, out of parts per billion again.
    figures: dict[str, float] = {"utility_micros": utilities[row] / 1e9}
    if sale.wins:
        figures["cut_off_utility_micros"] = utilities[sale.wins[-1].row] / 1e9
    for position, win in enumerate(sale.wins, start=1):
        if win.row == row:
            figures |= {"position": position, "price_micros": win.price_micros}
    reasons = {
        "won": "its bid times pCTR won a place",
        "outbid": "its bid times pCTR is below the last place's",
        "advertiser_cap": "its advertiser already has the most places one may have",
        "budget_exhausted": _RULES[Rule.BUDGET_EXHAUSTED],
        "no_bid": _RULES[Rule.NO_BID],
        "below_reserve": _RULES[Rule.BELOW_RESERVE],
        "ineligible": "it may not be shown to this asker now",
    }
    return PinFate(pin_id=pin_id, stage="auction", outcome=fate, reason=reasons[fate], figures=figures)


def _l1_fate(ranked: Ranked, pin_id: int, place: int) -> PinFate:
    dots = ranked.retrieved_dots
    kept = len(ranked.shortlist_pins)
    figures = {
        "dot": float(dots[place]),
        "l1_rank": float(1 + np.count_nonzero(dots > dots[place])),
        "cut_off_rank": float(kept),
        "cut_off_dot": float(np.sort(dots)[-kept]) if kept else float("inf"),
    }
    return PinFate(
        pin_id=pin_id,
        stage="l1",
        outcome="below_l1_cut",
        reason="L1 scored it below the cut",
        figures=figures,
    )


def _retrieval_fate(ranked: Ranked, pin_id: int, release: LiveRelease | None) -> PinFate:
    if release is None:
        text = "its release is not served any more; at that time it was filtered out or not retrieved"
        return PinFate(pin_id=pin_id, stage="retrieval", outcome="release_gone", reason=text)
    if not len(release.index.attributes):
        text = "its shard filtered it out or did not retrieve it, or holds no such Pin; a root cannot tell"
        return PinFate(pin_id=pin_id, stage="retrieval", outcome="on_a_shard", reason=text)
    found = release.shelf.view.standing(pin_id, ranked.asker.age_band, ranked.occurred_at_ms)
    if found is None:
        text = "neither the release's index nor the delta segment over it holds this Pin"
        return PinFate(pin_id=pin_id, stage="retrieval", outcome="not_in_index", reason=text)
    if found.rule is not Rule.ELIGIBLE:
        outcome, reason = found.rule.name.lower(), _RULES[found.rule]
        return PinFate(pin_id=pin_id, stage="retrieval", outcome=outcome, reason=reason, delta=found.delta)
    dot = float(found.vector.astype(np.float32) @ ranked.query)
    text = "eligible, but its embedding is too far from the query's to be retrieved"
    figures = {"dot": dot, "retrieved": float(len(ranked.retrieved_pins))}
    return PinFate(
        pin_id=pin_id,
        stage="retrieval",
        outcome="not_retrieved",
        reason=text,
        figures=figures,
        delta=found.delta,
    )
