"""The spine: what each stage lets through, and that everything comes from one lease."""

import numpy as np
import pytest

from schemas.ranking import RankRequest
from serving.answers import log_of, response_fields, response_of
from serving.ledger import DAYS_KEPT
from serving.live_release import Assembly
from serving.parts import ServingParts
from serving.pipeline import NoRelease

from .fakes import HOUR_MS, NOON_MS, FakeTower, fake_index, live, pins, version

TOWER, OTHER = version("tower"), version("other tower")


def test_without_a_release_the_query_is_refused(parts: ServingParts) -> None:
    with pytest.raises(NoRelease):
        parts.pipeline.rank(RankRequest())


def test_the_best_utilities_win_in_order(parts: ServingParts, assembly: Assembly) -> None:
    # Equal bids, dots falling by row: the first three Pins win; each pays for the utility behind it.
    parts.handle.swap(live(fake_index("r1", TOWER, pins(30)), assembly))
    response = response_of(parts.pipeline.rank(RankRequest(user_id=1, slots=3)))
    assert [ad.pin_id for ad in response.ads] == [100, 101, 102]
    assert [ad.position for ad in response.ads] == [1, 2, 3]
    assert all(1_000 <= ad.price_micros <= ad.bid_micros == 10_000 for ad in response.ads)
    assert [ad.title for ad in response.ads] == ["Pin 100", "Pin 101", "Pin 102"]
    assert response.ads[0].score == pytest.approx(1 / (1 + np.exp(-1.0)), abs=1e-6)
    assert response.request_id == "made-1"


def test_each_stage_says_what_came_what_left_and_why(parts: ServingParts, assembly: Assembly) -> None:
    attributes = pins(30)
    attributes["status"][:4] = 2
    attributes["ends_at_ms"][4] = NOON_MS - 1
    parts.handle.swap(live(fake_index("r1", TOWER, attributes), assembly))
    stages = {stage.stage: stage for stage in parts.pipeline.rank(RankRequest(slots=3)).stages}
    assert list(stages) == ["query_tower", "retrieval", "l1", "auction"]
    retrieval, l1, auction = stages["retrieval"], stages["l1"], stages["auction"]
    assert (retrieval.candidates_in, retrieval.candidates_out) == (30, 20)
    assert retrieval.dropped == {"status": 4, "ended": 1, "not_retrieved": 5}
    assert (l1.candidates_in, l1.candidates_out, l1.dropped) == (20, 10, {"below_l1_cut": 10})
    assert (auction.candidates_in, auction.candidates_out, auction.dropped) == (10, 3, {"outbid": 7})


def test_an_answer_holds_no_larger_table_than_what_it_says(parts: ServingParts, assembly: Assembly) -> None:
    parts.handle.swap(live(fake_index("r1", TOWER, pins(30)), assembly))
    ranked = parts.pipeline.rank(RankRequest())
    for one in (ranked.retrieved_pins, ranked.retrieved_dots, ranked.shortlist_pins):
        whole = one if one.base is None else one.base
        assert whole.nbytes == one.nbytes


def test_ties_at_the_l1_cut_go_to_the_lower_pin(parts: ServingParts, assembly: Assembly) -> None:
    parts.handle.swap(live(fake_index("r1", TOWER, pins(20), np.full(20, 0.5)), assembly))
    ranked = parts.pipeline.rank(RankRequest())
    assert sorted(ranked.shortlist_pins.tolist()) == list(range(100, 110))


def test_every_version_comes_from_the_object_that_was_used(parts: ServingParts, assembly: Assembly) -> None:
    release = live(fake_index("r1", TOWER, pins(10)), assembly)
    parts.handle.swap(release)
    log = log_of(parts.pipeline.rank(RankRequest(slots=5)))
    assert log.query_tower_version == TOWER
    assert {ad.tower_version for ad in log.ads} == {TOWER}
    assert log.mixed_pairs() == 0


def test_the_log_shows_a_tower_that_is_not_the_manifests(parts: ServingParts, assembly: Assembly) -> None:
    # Put together past the checks, as a bug would: the log must not repeat the manifest's claim.
    index = fake_index("r1", TOWER, pins(10))
    release = live(index, assembly)
    object.__setattr__(release, "query_tower", FakeTower(OTHER))
    index.versions, index.version_code = [TOWER, OTHER], np.array([0] * 8 + [1] * 2, np.uint8)
    parts.handle.swap(release)
    log = log_of(parts.pipeline.rank(RankRequest(slots=10)))
    assert len(log.ads) == 10
    assert log.mixed_pairs() == 8


def test_a_request_keeps_its_release_while_another_is_swapped_in(
    parts: ServingParts, assembly: Assembly
) -> None:
    # The new one has the same Pins and more, in another order of liking.
    old, new = fake_index("r1", TOWER, pins(10)), fake_index("r2", OTHER, pins(40), np.arange(40.0) / 10)
    first, second = live(old, assembly), live(new, assembly)
    parts.handle.swap(first)

    class SwapsInTheMiddle(FakeTower):
        def embed(self, users: object, contexts: object) -> np.ndarray:
            parts.handle.swap(second)
            return np.array([[1, 0, 0, 0]], np.float32)

    object.__setattr__(first, "query_tower", SwapsInTheMiddle(TOWER))
    during, after = parts.pipeline.rank(RankRequest()), parts.pipeline.rank(RankRequest())
    assert (during.provenance.release_id, after.provenance.release_id) == ("r1", "r2")
    assert {ad.tower_version for ad in during.ads} == {during.provenance.query_tower_version} == {TOWER}
    assert set(during.retrieved_pins.tolist()) == set(old.attributes["pin_id"].tolist())
    assert {ad.tower_version for ad in after.ads} == {after.provenance.query_tower_version} == {OTHER}
    parts.watcher.check()
    assert old.closed
    assert not new.closed


def test_winners_are_charged_and_a_spent_budget_ends_the_ad_for_the_day(
    parts: ServingParts, assembly: Assembly
) -> None:
    attributes = pins(2, bid_micros=[20_000, 10_000], daily_budget_micros=[45_000, 10_000_000])
    parts.handle.swap(live(fake_index("r1", TOWER, attributes, [0.0, 0.0]), assembly))
    # Equal pctr: Pin 100 pays 10,000 (the next bid) until less than its own bid is left: 45 → 35 → 25 → 15.
    winners = [parts.pipeline.rank(RankRequest(slots=1)).ads[0].pin_id for _ in range(4)]
    assert winners == [100, 100, 100, 101]
    assert parts.ledger.spent(parts.ledger.day_of(NOON_MS), [100]) == [30_000]
    tomorrow = parts.pipeline.rank(RankRequest(slots=1, occurred_at_ms=NOON_MS + 24 * HOUR_MS))
    assert tomorrow.ads[0].pin_id == 100


def test_queries_about_other_days_do_not_give_todays_budgets_back(
    parts: ServingParts, assembly: Assembly
) -> None:
    # Each bids 10,000 and can pay that once a day; with one slot each day sells Pin 100, then 101.
    attributes = pins(2, daily_budget_micros=10_000)
    parts.handle.swap(live(fake_index("r1", TOWER, attributes, [0.0, 0.0]), assembly))
    winners = [ad.pin_id for _ in range(3) for ad in parts.pipeline.rank(RankRequest(slots=1)).ads]
    assert winners == [100, 101]
    for days in range(-DAYS_KEPT, DAYS_KEPT + 1):
        parts.pipeline.rank(RankRequest(slots=1, occurred_at_ms=NOON_MS + days * 24 * HOUR_MS))
    assert parts.pipeline.rank(RankRequest(slots=1)).ads == ()


def test_what_the_route_sends_is_a_valid_response(parts: ServingParts, assembly: Assembly) -> None:
    parts.handle.swap(live(fake_index("r1", TOWER, pins(30)), assembly))
    ranked = parts.pipeline.rank(RankRequest(user_id=1))
    assert response_of(ranked).model_dump() == response_fields(ranked)


def test_extreme_dots_give_finite_figures(parts: ServingParts, assembly: Assembly) -> None:
    parts.handle.swap(live(fake_index("r1", TOWER, pins(2), [60_000, -60_000]), assembly))
    response = response_of(parts.pipeline.rank(RankRequest()))
    assert [ad.score for ad in response.ads] == [pytest.approx(1.0), pytest.approx(0.0)]


def test_an_index_without_anyone_eligible_gives_an_empty_answer(
    parts: ServingParts, assembly: Assembly
) -> None:
    parts.handle.swap(live(fake_index("r1", TOWER, pins(5, status=2)), assembly))
    ranked = parts.pipeline.rank(RankRequest())
    assert ranked.ads == ()
    assert ranked.stages[1].dropped == {"status": 5}
