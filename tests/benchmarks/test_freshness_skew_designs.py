"""Tiny timelines, worked out by hand: three Pins, one rollover at 10:00, an hour is an hour."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.freshness_skew_baselines import AliasSwap, HourlyUnion, IndexInCheckpoint
from benchmarks.freshness_skew_clock import HOUR_MS, MINUTE_MS, WEEK_MS, Measured, Settings, Timeline
from benchmarks.freshness_skew_designs import Design, Offline, Released
from benchmarks.freshness_skew_rows import Matrix, Shown, Slots
from entrypoints.settings import Settings as ProductSettings

TEN = 10 * HOUR_MS
MEASURED = Measured(enrich=100, backfill=2_000, release=3_000, shard=500, refresh=10)
DAY = Timeline(0, 24 * HOUR_MS, (TEN,), MEASURED)
PINS = 3


class StateTables:
    """A Pin's vector is [version, how often the Pin has changed]."""

    def __init__(self) -> None:
        self.state = np.zeros(PINS, np.float32)

    def rows(self, version: int, slots: Slots) -> Matrix:
        return np.stack([np.full(len(slots), version, np.float32), self.state[slots]], axis=1)


def _shown() -> Shown:
    return Shown(PINS, np.zeros((PINS, 2), np.float32))


def _play(design: Design, changes: dict[int, list[int]], until_ms: int) -> list[tuple[int, float]]:
    """Run a design over changes (moment -> Pins); returns (version, state) of each Pin at `until_ms`."""
    tables = StateTables()
    moments = sorted({*design.moments(), *(at + 1 for at in changes), until_ms})
    for now in [moment for moment in moments if 0 < moment <= until_ms]:
        for at, pins in changes.items():
            if at + 1 == now:
                tables.state[pins] += 1
                design.rows(now, np.array(pins, np.intp), np.full(len(pins), at), tables)
        design.due(now, tables)
    assert design.shown.vectors is not None
    assert (design.shown.vectors[:, 0] == design.shown.codes).all()
    return [(int(version), float(state)) for version, state in design.shown.vectors]


def _code(design: Design, at_ms: int, user: int = 1) -> int:
    return int(design.query_codes(np.array([at_ms]), np.array([user]))[0])


def _wait(design: Design, at_ms: int) -> int:
    return int(design.servable_ms(np.array([at_ms]))[0]) - at_ms


def test_offline_knows_everything_at_once() -> None:
    design = Offline("offline", DAY, _shown())
    assert _play(design, {5: [0], TEN + 5: [1]}, TEN + 6) == [(1, 1), (1, 1), (1, 0)]
    assert (_code(design, TEN - 1), _code(design, TEN)) == (0, 1)
    assert _wait(design, 5) == 0
    assert (design.costs.update_forwards, design.costs.bulk_forwards) == (2, PINS)


def test_ours_serves_the_old_version_until_the_new_one_is_complete_and_released() -> None:
    design = Released("ours", DAY, _shown())
    # Ready at 10:00, backfilled 2 s later, found complete by the cut of 11:00, live 3 s after that.
    swap = 11 * HOUR_MS + 3_000
    assert design.swaps_ms == (swap,)
    assert (_code(design, swap - 1), _code(design, swap)) == (0, 1)
    before = _play(design, {5: [0], TEN + 5: [1]}, swap - 1)
    assert before == [(0, 1), (0, 1), (0, 0)]


def test_ours_is_as_fresh_after_the_swap_as_before_it_and_never_mixed() -> None:
    swap = 11 * HOUR_MS + 3_000
    changes = {TEN + 5: [1], swap - 100: [0], swap + 7: [2]}
    design = Released("ours", DAY, _shown())
    assert _play(design, changes, swap) == [(1, 1), (1, 1), (1, 0)]
    design = Released("ours", DAY, _shown())
    assert _play(design, changes, swap + 8) == [(1, 1), (1, 1), (1, 1)]


def test_ours_embeds_twice_only_while_a_candidate_waits() -> None:
    design = Released("ours", DAY, _shown())
    _play(design, {5: [0], TEN + 5: [0, 1], 12 * HOUR_MS + 5: [2]}, 24 * HOUR_MS)
    assert design.costs.update_forwards == 1 + 2 * 2 + 1
    assert design.costs.dual_forwards == 2
    assert design.costs.bulk_forwards == PINS
    assert design.costs.releases == 24


def test_ours_shows_an_event_at_the_next_refresh() -> None:
    design = Released("ours", DAY, _shown())
    # 100 ms in the worker, then up to the next half second, then 10 ms of folding.
    assert _wait(design, 0) == 500 + 10
    assert _wait(design, 950) == 1_500 - 950 + 10


def test_ours_refreshes_as_often_as_the_server_does_by_default() -> None:
    default = ProductSettings.model_fields["delta_refresh_seconds"].default
    assert Settings().refresh_ms == round(1000 * default)


def test_without_the_delta_rows_wait_for_the_cut_and_the_release() -> None:
    design = Released("ours", DAY, _shown(), delta=False)
    assert _wait(design, 30 * MINUTE_MS) == 30 * MINUTE_MS + 3_000
    assert _wait(design, HOUR_MS - 50) == 50 + HOUR_MS + 3_000  # embedded 50 ms after the cut
    shown_ms = HOUR_MS + 3_000
    assert _play(design, {5: [0]}, shown_ms - 1) == [(0, 0), (0, 0), (0, 0)]
    again = Released("ours", DAY, _shown(), delta=False)
    assert _play(again, {5: [0], HOUR_MS + 5: [1]}, shown_ms) == [(0, 1), (0, 0), (0, 0)]


def test_without_the_delta_the_swap_is_the_same_whole_release() -> None:
    design = Released("ours", DAY, _shown(), delta=False)
    swap = 11 * HOUR_MS + 3_000
    assert _play(design, {5: [0], TEN + 5: [1]}, swap) == [(1, 1), (1, 1), (1, 0)]
    assert (_code(design, swap - 1), _code(design, swap)) == (0, 1)


def test_the_checkpoints_index_is_fresh_at_checkpoints_only() -> None:
    design = IndexInCheckpoint("checkpoint", DAY, _shown())
    swap = TEN + 5_000
    assert _play(design, {5: [0], TEN + 5: [1]}, swap - 1) == [(0, 0), (0, 0), (0, 0)]
    again = IndexInCheckpoint("checkpoint", DAY, _shown())
    # What came while it was embedded and loaded is not in it.
    assert _play(again, {5: [0], TEN + 5: [1]}, swap) == [(1, 1), (1, 0), (1, 0)]
    assert (_code(again, swap - 1), _code(again, swap)) == (0, 1)
    assert (_wait(again, TEN - HOUR_MS), _wait(again, TEN + 1)) == (HOUR_MS + 5_000, WEEK_MS - 1 + 5_000)
    assert (again.costs.forwards, again.costs.releases) == (PINS, 1)


def test_the_union_mixes_until_every_pin_had_its_turn() -> None:
    three_hours = replace(DAY, settings=replace(Settings(), union_hours=3))
    design = HourlyUnion("union", three_hours, _shown())
    assert (_code(design, TEN - 1), _code(design, TEN)) == (0, 1)
    # The shard of 10:00 was written by the old tower; from 11:00 on a third of the Pins is new each hour.
    mixed = [
        sum(version for version, _ in _play(_union(three_hours), {}, hour * HOUR_MS + 500))
        for hour in (10, 11, 12, 13)
    ]
    assert mixed == [0, 1, 2, 3]


def _union(timeline: Timeline) -> HourlyUnion:
    return HourlyUnion("union", timeline, _shown())


def test_the_union_shows_a_change_with_its_hours_shard_by_the_tower_that_was_live() -> None:
    slow = replace(DAY, settings=replace(Settings(), union_hours=1_000))
    change = {TEN - 5: [1], TEN + 5: [2]}
    assert _play(_union(slow), change, TEN + 499) == [(0, 0), (0, 0), (0, 0)]
    assert _play(_union(slow), change, TEN + 500) == [(0, 0), (0, 1), (0, 0)]
    assert _play(_union(slow), change, 11 * HOUR_MS + 500) == [(0, 0), (0, 1), (1, 1)]
    assert _wait(_union(slow), 30 * MINUTE_MS) == 30 * MINUTE_MS + 500


def test_the_union_embeds_a_pin_once_an_hour_at_most_for_its_turn() -> None:
    design = _union(replace(DAY, settings=replace(Settings(), union_hours=1)))
    _play(design, {5: [0]}, 2 * HOUR_MS)
    assert (design.costs.update_forwards, design.costs.bulk_forwards, design.costs.shards) == (1, 2 + 3, 2)


def _alias(**changed: int) -> AliasSwap:
    settings = replace(Settings(), **changed)
    return AliasSwap("alias", replace(DAY, settings=settings), _shown())


def test_the_alias_moves_once_and_all_rows_with_it() -> None:
    switch = TEN + HOUR_MS
    changes = {5: [0], TEN + 5: [1]}
    together = {"worker_roll_ms": 0, "client_roll_ms": 0}
    assert _play(_alias(**together), changes, switch - 1) == [(0, 1), (0, 1), (0, 0)]
    assert _play(_alias(**together), changes, switch) == [(1, 1), (1, 1), (1, 0)]
    assert [_code(_alias(**together), at) for at in (switch - 1, switch)] == [0, 1]
    assert _wait(_alias(), 5) == 100


def test_clients_have_the_new_model_up_to_half_a_roll_before_or_after_the_alias() -> None:
    design, switch = _alias(client_roll_ms=HOUR_MS), TEN + HOUR_MS
    users = np.arange(1_000)
    share = [
        float(design.query_codes(np.full(1_000, switch + offset), users).mean())
        for offset in (-HOUR_MS // 2 - 1, 0, HOUR_MS // 2 + 1)
    ]
    assert share == [0.0, pytest.approx(0.5, abs=0.05), 1.0]


def test_a_worker_that_is_late_writes_old_vectors_into_the_new_collection() -> None:
    switch = TEN + HOUR_MS
    design = _alias(worker_roll_ms=2 * HOUR_MS)
    leads = [int(lead) for lead in design._worker_lead_ms]
    late, early = int(np.argmax(leads)), int(np.argmin(leads))
    assert leads[late] > 0 > leads[early]
    assert _play(design, {switch + 5: [late]}, switch + 6)[late] == (0, 1)
    again = _alias(worker_roll_ms=2 * HOUR_MS)
    assert _play(again, {switch + leads[early] + 5: [early]}, switch + leads[early] + 6)[early] == (1, 1)


def test_updates_go_to_both_collections_until_the_alias_moves() -> None:
    design = _alias()
    _play(design, {5: [0], TEN + 5: [0, 1], TEN + HOUR_MS + 5: [2]}, 24 * HOUR_MS)
    assert (design.costs.update_forwards, design.costs.dual_forwards) == (1 + 2 * 2 + 1, 2)
    assert (design.costs.bulk_forwards, design.costs.releases) == (PINS, 1)


def test_a_design_without_vectors_keeps_the_same_versions() -> None:
    changes = {5: [0], TEN - 5: [1], TEN + 5: [2]}
    for make in (HourlyUnion, AliasSwap, IndexInCheckpoint, Released):
        seen, blind = make("seen", DAY, _shown()), make("blind", DAY, Shown(PINS, None))
        for until in (TEN + 500, 11 * HOUR_MS + 3_000, 24 * HOUR_MS):
            seen, blind = make("seen", DAY, _shown()), make("blind", DAY, Shown(PINS, None))
            _play(seen, changes, until)
            tables = StateTables()
            _blind(blind, changes, until, tables)
            assert blind.shown.codes.tolist() == seen.shown.codes.tolist()


def _blind(design: Design, changes: dict[int, list[int]], until_ms: int, tables: StateTables) -> None:
    moments = sorted({*design.moments(), *(at + 1 for at in changes), until_ms})
    for now in [moment for moment in moments if 0 < moment <= until_ms]:
        for at, pins in changes.items():
            if at + 1 == now:
                design.rows(now, np.array(pins, np.intp), np.full(len(pins), at), tables)
        design.due(now, tables)
