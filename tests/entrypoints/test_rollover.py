"""Rollovers over a data directory with real, tiny towers; cutters and workers are played by the test."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrypoints import candidate_traces, rollover
from entrypoints.clocks import now_ms
from entrypoints.releasing import Releaser
from entrypoints.rolling_back import roll_back
from entrypoints.rollover import Times, abort_rollover, finish_rollover, start_rollover
from entrypoints.rollover_progress import Progress, rollover_progress
from entrypoints.rollover_record import read_rollover, write_rollover
from entrypoints.settings import Settings
from entrypoints.store_connection import release_store
from entrypoints.wiring import serving_parts
from features.tier_slices import in_tier
from index.snapshots import list_snapshots, read_snapshot, write_snapshot
from models.live_towers import read_live_towers, write_live_towers
from schemas.embedding_runs import EmbeddingRun
from schemas.errors import Refused, RetryableError
from schemas.file_locks import held_alone
from schemas.manifests import SnapshotManifest, TowerManifest
from schemas.statuses import CandidateStatus, CutterStatus, EmbedStatus, TowerStatus, WorkerStatus
from schemas.topics import PIN_EMBEDDED, PIN_FEATURES
from streams.embedding_runs import EmbeddingRuns
from tests.entrypoints.world import HOUR_MS, cut, save_tower

ROOT = Path(__file__).parents[2]
WISH = rollover.RolloverWish("ada", "week 32")
MANUAL = rollover.RolloverWish("ada", "week 32", manual=True)
START_MS = 1_600_000_000_000


@dataclass
class World:
    """A data directory in which tower A serves, tower B and C are trained, and time stands still."""

    settings: Settings
    towers: list[TowerManifest] = field(default_factory=list)
    now: float = 0.0

    @property
    def names(self) -> list[str]:
        return [tower.tower_version for tower in self.towers]

    @property
    def times(self) -> Times:
        def pause(seconds: float) -> None:
            self.now += seconds

        # Moves of CURRENT are dated by the real clock, later than this.
        return Times(lambda: START_MS + int(self.now * 1000), lambda: self.now, pause, 5.0)

    def cut(
        self, tower: int, hour: int = 0, pins: int = 30, tier: str = "realtime", end: int | None = None
    ) -> SnapshotManifest:
        """A snapshot as a cutter (or, of tier `slow`, the batch embedder) would write it."""
        data = self.settings.data_dir
        whole = cut(data, self.towers[tower], pins, hour)
        _, rows = read_snapshot(data / "snapshots", whole.snapshot_id)
        shutil.rmtree(data / "snapshots" / whole.snapshot_id)
        mine = in_tier(rows.attributes["pin_id"], self.settings.tiers().named(tier))
        batch = tier == "slow"
        return write_snapshot(
            data / "snapshots",
            rows.take(np.flatnonzero(mine)),
            tier=tier,
            hour_ms=HOUR_MS + hour * 3_600_000,
            clock="event",
            pin_inputs=whole.pin_inputs,
            offsets={(PIN_FEATURES if batch else PIN_EMBEDDED).name: {0: hour + 1 if end is None else end}},
            source="batch" if batch else "stream",
        )

    def start(self, tower: int = 1, wish: rollover.RolloverWish = WISH) -> None:
        start_rollover(self.settings, self.names[tower], wish, self.times)

    def abort(self, tower: int = 1) -> list[str]:
        return abort_rollover(self.settings, self.names[tower], self.times)

    def live_is(self, *towers: int) -> None:
        write_live_towers(self.settings.towers_dir, [self.names[one] for one in towers])

    def finish(self, tower: int = 1) -> str:
        return finish_rollover(self.settings, self.names[tower], WISH, self.times)

    def release(self, snapshot: SnapshotManifest) -> None:
        Releaser(self.settings)(snapshot)

    @property
    def live(self) -> list[int]:
        return [self.names.index(one) for one in read_live_towers(self.settings.towers_dir)]

    @property
    def serving(self) -> int:
        live = release_store(self.settings).comparable_live()
        assert live is not None
        return self.names.index(live.tower_version)

    def progress(self) -> Progress:
        found = rollover_progress(self.settings, self.times.now_ms())
        assert found is not None
        return found

    def listing(self) -> list[str]:
        """Every file but logs, the audit trail and empty locks."""
        data = self.settings.data_dir
        return sorted(
            str(path.relative_to(data))
            for path in data.rglob("*")
            if path.is_file() and not path.name.endswith(".lock") and "audit" not in path.name
            and "logs" not in path.parts
        )  # fmt: skip

    def run_of(self, tower: int, tier: str = "realtime") -> str:
        """A run that the batch embedder has begun."""
        plan = EmbeddingRun(
            run_id=f"{tier}-{'0' * 12}-0000",
            tier=tier,
            policy="realtime",
            tower_version=self.names[tower],
            clock="event",
            started_ms=START_MS,
            ends={0: 5, 1: 5},
        )
        return EmbeddingRuns(self.settings.embeddings_dir).begin(plan).path.name


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(Settings.load(data_dir=tmp_path, keep_releases=4))
    made.towers = [save_tower(tmp_path, seed) for seed in (1, 2, 3)]
    write_live_towers(made.settings.towers_dir, made.names[:1])
    made.release(made.cut(0))
    return made


TIERS = {
    "tiers": [
        {"name": "realtime", "policy": "realtime", "first_bucket": 0, "end_bucket": 40},
        {"name": "slow", "policy": "batch", "first_bucket": 40, "end_bucket": 100},
    ]
}


@pytest.fixture
def tiered(tmp_path: Path) -> World:
    (tmp_path / "tiers.json").write_text(json.dumps(TIERS))
    made = World(Settings.load(data_dir=tmp_path, keep_releases=4))
    made.towers = [save_tower(tmp_path, seed) for seed in (1, 2, 3)]
    write_live_towers(made.settings.towers_dir, made.names[:1])
    made.cut(0, tier="slow", pins=60)
    made.release(made.cut(0, pins=60))
    return made


def refusal(call: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as refused:
        call()
    return refused.value


def test_a_start_makes_the_tower_a_candidate_and_keeps_who_when_and_why(world: World) -> None:
    world.start()

    record = read_rollover(world.settings)
    assert world.live == [0, 1]
    assert record is not None
    assert (record.candidate, record.serving) == (world.names[1], world.names[0])
    assert (record.actor, record.reason, record.started_ms) == ("ada", "week 32", START_MS)


def test_a_start_refuses_what_cannot_become_the_serving_tower(world: World) -> None:
    root = world.settings.towers_dir
    assert refusal(lambda: world.start(0)).code == "already_serving"
    (root / world.names[1] / "READY").unlink()
    assert refusal(lambda: world.start(1)).code == "not_ready"
    weights = root / world.names[2] / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert refusal(lambda: world.start(2)).code == "bad_checksum"
    assert world.live == [0] and read_rollover(world.settings) is None


def test_a_tower_of_another_feature_registry_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = world.towers[1].model_copy(update={"registry_hash": "0" * 64})
    monkeypatch.setattr(rollover, "read_tower_manifest", lambda root, version: other)

    assert refusal(world.start).code == "registry_mismatch"


def test_a_second_candidate_is_refused_unless_it_is_to_replace_the_first(world: World) -> None:
    world.start(1)
    world.cut(1, hour=1)
    world.run_of(1)

    assert refusal(lambda: world.start(2)).code == "rollover_under_way"
    world.start(2, rollover.RolloverWish("ada", "better", replace=True))

    record = read_rollover(world.settings)
    assert world.live == [0, 2] and record is not None and record.candidate == world.names[2]
    assert not [name for name in world.listing() if world.names[1][:12] in name and "towers" not in name]


def test_a_start_given_again_goes_on_where_it_was(world: World) -> None:
    world.start()
    write_live_towers(world.settings.towers_dir, world.names[:1])  # killed between record and LIVE
    assert world.progress().state == "interrupted"
    assert refusal(world.finish).code == "rollover_incomplete"

    world.start()

    assert world.live == [0, 1] and world.progress().state == "under way"


def test_a_complete_candidate_goes_live_by_itself_and_the_rollover_is_over(world: World) -> None:
    world.start()
    world.release(world.cut(0, hour=1))
    assert (world.serving, world.live) == (0, [0, 1])

    world.release(world.cut(1, hour=1))

    assert (world.serving, world.live) == (1, [1])
    assert read_rollover(world.settings) is None
    assert rollover_progress(world.settings, 0) is None


def test_a_manual_rollover_waits_for_finish_and_says_that_it_is_ready(world: World) -> None:
    world.start(1, MANUAL)
    world.release(world.cut(0, hour=1))
    world.release(world.cut(1, hour=1))
    assert (world.serving, world.live, world.progress().state) == (0, [0, 1], "ready")

    live = world.finish()

    assert (world.serving, world.live) == (1, [1])
    assert release_store(world.settings).current() == live
    assert release_store(world.settings).audit()[-1].actor == "ada"
    assert read_rollover(world.settings) is None


def test_a_finish_before_the_candidate_is_complete_says_what_is_missing(tiered: World) -> None:
    """User pain 4: an alias that is switched too soon."""
    tiered.start(1, MANUAL)
    tiered.release(tiered.cut(1, hour=1, pins=60))

    refused = refusal(tiered.finish)

    assert refused.code == "rollover_incomplete"
    assert "tier slow: no snapshot of tower" in refused.came and "realtime" not in refused.came
    assert "skewless embed --tier slow" in refused.came
    assert (tiered.serving, tiered.live) == (0, [0, 1])
    tiered.release(tiered.cut(1, hour=1, pins=60, tier="slow"))
    tiered.finish()
    assert (tiered.serving, tiered.live) == (1, [1])


def test_a_candidate_whose_snapshot_covers_less_than_what_is_served_is_not_complete(world: World) -> None:
    """User pain 4: nothing older than what was there goes live."""
    world.start(1, MANUAL)
    world.cut(1, hour=1)
    world.release(world.cut(0, hour=2))

    assert "is older than what is served" in refusal(world.finish).came
    world.cut(1, hour=2)
    world.finish()
    assert world.serving == 1


def test_a_batch_snapshot_of_a_realtime_tier_is_no_release(tiered: World) -> None:
    tiered.start()
    base = tiered.cut(1, hour=1, pins=60)
    manifest, rows = read_snapshot(tiered.settings.snapshots_dir, base.snapshot_id)
    shutil.rmtree(tiered.settings.snapshots_dir / base.snapshot_id)
    write_snapshot(
        tiered.settings.snapshots_dir, rows, tier="realtime", hour_ms=manifest.hour_ms, clock="event",
        pin_inputs=manifest.pin_inputs, offsets={PIN_FEATURES.name: {0: 9}}, source="batch",
    )  # fmt: skip

    tiered.release(tiered.cut(1, hour=1, pins=60, tier="slow"))

    assert tiered.serving == 0
    assert tiered.progress().tiers["realtime"].snapshot_id is None


@pytest.mark.parametrize("moment", ["at once", "with snapshots", "with a built release", "after a replace"])
def test_after_an_abort_the_directory_is_what_it_was(world: World, moment: str) -> None:
    before = world.listing()
    world.start(1, MANUAL)
    if moment != "at once":
        world.run_of(1)
        world.cut(1, hour=1)
    if moment == "with a built release":
        world.release(world.cut(1, hour=2))
        assert len(release_store(world.settings).list()) == 2
    if moment == "after a replace":
        world.start(2, rollover.RolloverWish("ada", "better", replace=True))
        world.cut(2, hour=1)

    world.abort(2 if moment == "after a replace" else 1)

    assert world.listing() == before
    assert world.live == [0] and world.serving == 0


def test_an_abort_leaves_what_the_candidate_had_before_the_rollover(world: World) -> None:
    world.start()
    world.release(world.cut(1, hour=1))
    world.start(0)  # back to the first one, whose snapshots and releases are still there
    before = set(world.listing())
    world.cut(0, hour=2)

    world.abort(0)

    assert {name for name in before if "ROLLOVER" not in name} == set(world.listing())
    assert world.live == [1]


def test_a_candidate_that_is_live_is_not_aborted(world: World) -> None:
    world.start(1, MANUAL)
    snapshot = world.cut(1, hour=1)
    world.release(snapshot)
    store = release_store(world.settings)
    built = next(name for name in store.list() if name != store.current())
    store.publish(built, actor="bob", reason="by hand, past the rollover")

    assert refusal(world.abort).code == "already_live"
    assert world.progress().state == "live"
    world.finish()
    assert (world.live, read_rollover(world.settings)) == ([1], None)


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_that_disagree_do_not_decide_whether_a_rollover_is_over(world: World, hours: int) -> None:
    ahead = Times(lambda: now_ms() + hours * 3_600_000)
    start_rollover(world.settings, world.names[1], WISH, ahead)
    world.release(world.cut(1, hour=1))
    assert (world.live, read_rollover(world.settings)) == ([1], None)

    # The next candidate was live before: that ends nothing, and can be aborted.
    release_store(world.settings).rollback(actor="ada", reason="recall fell")
    world.live_is(1, 0)
    start_rollover(world.settings, world.names[0], WISH, ahead)
    assert world.progress().state == "under way"
    world.release(world.cut(0))
    assert world.live == [1, 0] and read_rollover(world.settings) is not None
    world.abort(0)
    assert (world.live, read_rollover(world.settings)) == ([1], None)


def test_a_record_without_the_number_of_moves_is_judged_by_the_clock_as_before(world: World) -> None:
    world.start(1, MANUAL)
    record = read_rollover(world.settings)
    assert record is not None and record.moves == 1
    write_rollover(world.settings, record.model_copy(update={"moves": None}))
    world.release(world.cut(1, hour=1))
    store = release_store(world.settings)
    store.publish(_built(world), actor="bob", reason="by hand, past the rollover")
    assert world.progress().state == "live"

    write_rollover(world.settings, record.model_copy(update={"moves": None, "started_ms": now_ms() + 60_000}))
    assert world.progress().state == "ready"


def _built(world: World) -> str:
    """The release that is there and not live."""
    store = release_store(world.settings)
    return next(name for name in store.list() if name != store.current())


def test_chains_of_rollovers_reach_the_last_tower(world: World) -> None:
    for tower, hour in [(1, 1), (2, 2), (0, 3)]:
        world.start(tower)
        world.release(world.cut(tower, hour=hour))
        assert (world.live, world.serving) == ([tower], tower)
    assert [move.action for move in release_store(world.settings).audit()] == ["publish"] * 4


def test_a_rollback_to_another_tower_holds_when_the_next_snapshot_of_the_new_one_comes(world: World) -> None:
    world.start()
    world.release(world.cut(1, hour=1))
    current = release_store(world.settings).current()

    done = roll_back(world.settings, "ada", "recall fell", current)

    assert (world.serving, world.live) == (0, [0, 1])
    assert done.live_towers == world.names[:2]
    world.release(world.cut(1, hour=2))
    assert (world.serving, world.live) == (0, [0, 1])
    world.release(world.cut(0, hour=3))
    assert release_store(world.settings).current() != done.move.release_id
    assert (world.serving, world.live) == (0, [0])
    world.release(world.cut(1, hour=4))
    assert world.serving == 0


def test_a_rollback_over_the_api_goes_back_to_the_tower_too(world: World) -> None:
    world.start()
    world.release(world.cut(1, hour=1))
    parts = serving_parts(world.settings, embedded_broker=False)

    move = parts.roll_back("ada", "recall fell", ...)

    assert move.tower_version == world.names[0]
    assert (world.serving, world.live) == (0, [0, 1])


def test_a_rollback_that_did_not_reach_live_is_followed_by_the_next_cutter(world: World) -> None:
    world.start()
    world.release(world.cut(1, hour=1))
    # On a machine that shares no LIVE with the workers, or killed right after the move.
    release_store(world.settings).rollback(actor="ada", reason="recall fell")
    assert (world.serving, world.live) == (0, [1])

    world.release(world.cut(1, hour=2))

    assert (world.serving, world.live) == (0, [0, 1])
    world.release(world.cut(0, hour=3))
    assert (world.serving, world.live) == (0, [0])


def test_a_rollback_succeeds_though_live_cannot_be_read(world: World) -> None:
    world.start()
    world.release(world.cut(1, hour=1))
    (world.settings.towers_dir / "LIVE").write_text("{")

    done = roll_back(world.settings, "ada", "recall fell", ...)

    assert (done.move.tower_version, done.live_towers) == (world.names[0], None)


def test_releases_and_snapshots_that_are_not_published_do_not_pile_up(world: World) -> None:
    settings = world.settings.model_copy(update={"keep_releases": 2, "keep_snapshot_days": 0})
    world.start(1, MANUAL)
    for hour in range(1, 7):
        Releaser(settings)(world.cut(1, hour=hour))
    assert world.serving == 0
    assert len(release_store(settings).list()) == 3  # the live one and the newest two
    assert len(list_snapshots(settings.snapshots_dir)) == 3


def test_a_finish_after_an_abort_is_refused_and_not_told_as_done(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start(1, MANUAL)
    world.cut(1, hour=1)

    def aborted_meanwhile(*arguments: Any) -> None:
        world.abort()

    monkeypatch.setattr(rollover, "rollover_progress", aborted_meanwhile)
    assert refusal(world.finish).code == "no_rollover"
    assert (world.serving, world.live) == (0, [0])


def test_a_rollback_within_a_tower_leaves_live_alone_and_another_candidate_stays(world: World) -> None:
    world.release(world.cut(0, hour=1))
    world.start(2, MANUAL)
    done = roll_back(world.settings, "ada", "recall fell", release_store(world.settings).current())
    assert (done.live_towers, world.live) == (None, [0, 2])

    world.abort(2)
    world.start(1)
    world.release(world.cut(1, hour=2))
    world.start(2, MANUAL)
    roll_back(world.settings, "ada", "recall fell", release_store(world.settings).current())
    assert (world.serving, world.live) == (0, [0, 1, 2])
    world.release(world.cut(0, hour=3))
    assert (world.serving, world.live) == (0, [0, 2])


def test_going_back_to_a_tower_that_is_live_after_a_rollback_needs_new_snapshots(world: World) -> None:
    world.start()
    world.release(world.cut(1, hour=1))
    release_store(world.settings).rollback(actor="ada", reason="recall fell")
    start_rollover(world.settings, world.names[0], WISH, Times(now_ms))

    world.release(world.cut(0))  # what the cutter resumes from: as old as before

    assert world.live == [1, 0] and read_rollover(world.settings) is not None
    world.release(world.cut(0, hour=2))
    assert world.live == [0] and read_rollover(world.settings) is None


def _turned_away(world: World) -> None:
    """The newest release is rolled back."""
    roll_back(world.settings, "ada", "recall fell", release_store(world.settings).current())


def test_a_tower_that_was_turned_away_stays_until_each_realtime_tier_is_level(tiered: World) -> None:
    tiered.start()
    tiered.cut(1, hour=1, tier="slow", pins=60)
    tiered.release(tiered.cut(1, hour=1, pins=60))
    _turned_away(tiered)
    assert (tiered.live, tiered.serving) == ([0, 1], 0)

    # What the batch embedder writes is released with the realtime snapshot of before the rollover.
    tiered.release(tiered.cut(0, hour=2, tier="slow", pins=60))
    assert (tiered.live, len(release_store(tiered.settings).audit())) == ([0, 1], 4)

    tiered.release(tiered.cut(0, hour=2, pins=60))
    assert (tiered.live, tiered.serving) == ([0], 0)


def test_a_snapshot_of_before_a_rollback_by_two_is_not_level_either(tiered: World) -> None:
    tiered.release(tiered.cut(0, hour=1, pins=60))
    tiered.start()
    tiered.cut(1, hour=2, tier="slow", pins=60)
    tiered.release(tiered.cut(1, hour=2, pins=60))
    _turned_away(tiered)
    _turned_away(tiered)

    tiered.release(tiered.cut(0, hour=3, tier="slow", pins=60))

    assert (tiered.live, tiered.serving) == ([0, 1], 0)


@pytest.mark.parametrize("follows", [True, False])
def test_a_candidate_that_was_rolled_back_before_its_rollover_was_closed_stays_turned_away(
    world: World, follows: bool
) -> None:
    world.start(1)
    world.cut(1, hour=1)
    kill(world, "finish", "close_rollover")
    assert world.serving == 1 and read_rollover(world.settings) is not None

    if follows:
        _turned_away(world)
        assert read_rollover(world.settings) is None
    else:  # on a machine that has no LIVE and no record
        release_store(world.settings).rollback(actor="ada", reason="recall fell")
    world.release(world.cut(1, hour=2))

    assert (world.serving, world.live, read_rollover(world.settings)) == (0, [0, 1], None)
    world.start(1)
    world.release(world.cut(1, hour=3))
    assert (world.serving, world.live) == (1, [1])


def test_a_candidate_that_was_published_by_hand_and_rolled_back_may_be_started_anew(world: World) -> None:
    world.start(1, MANUAL)
    world.release(world.cut(1, hour=1))
    store = release_store(world.settings)
    store.publish(_built(world), actor="bob", reason="by hand, past the rollover")
    store.rollback(actor="ada", reason="recall fell")  # on a machine that has no LIVE and no record

    world.start(1)

    record = read_rollover(world.settings)
    assert record is not None and (record.manual, record.moves) == (False, 3)


def test_a_damaged_record_does_not_keep_live_from_following_a_rollback(world: World) -> None:
    world.start(1)
    world.release(world.cut(1, hour=1))
    (world.settings.towers_dir / "ROLLOVER.json").write_text('{"candidate": 3}')

    _turned_away(world)

    assert (world.serving, world.live) == (0, [0, 1])


def test_a_start_right_after_the_rollback_is_a_wish_for_the_release_that_was_rolled_back(
    world: World,
) -> None:
    world.start(1)
    snapshot = world.cut(1, hour=1)
    world.release(snapshot)
    _turned_away(world)
    world.release(snapshot)
    assert world.serving == 0

    world.start(1)
    progress = world.progress()
    assert (progress.state, progress.was_live_before) == ("ready", True)
    world.release(snapshot)  # the cutter is started again: nothing has changed, so nothing newer is cut

    assert (world.serving, world.live, read_rollover(world.settings)) == (1, [1], None)


@pytest.mark.parametrize("meanwhile", ["aborted", "released before", "released after"])
def test_the_release_that_was_rolled_back_waits_for_newer_rows_when_it_may_be_staler_than_what_is_served(
    world: World, meanwhile: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    world.start(1)
    snapshot = world.cut(1, hour=1)
    world.release(snapshot)
    _turned_away(world)
    if meanwhile == "aborted":  # the workers stopped embedding with it
        world.start(1)
        world.abort(1)
    if meanwhile == "released before":
        world.release(world.cut(0, hour=1, end=9))
    world.start(1)
    if meanwhile == "released after":
        world.release(world.cut(0, hour=1, end=9))

    world.release(snapshot)

    assert world.serving == 0 and read_rollover(world.settings) is not None
    assert "it was live and was rolled back" in caplog.text
    if meanwhile != "aborted":
        assert world.progress().was_live_before
    world.release(world.cut(1, hour=2))
    assert (world.serving, world.live) == (1, [1])


def test_a_finish_leaves_a_run_that_is_under_way_and_what_it_says_of_itself(world: World) -> None:
    world.start(1, MANUAL)
    status = EmbedStatus(
        tier="realtime", tower_version=world.names[1], run_id=world.run_of(1), written_at_ms=START_MS,
        partitions=2, done=0, state_rows=5, state_rows_expected=10, rows=4, failed=0, rows_per_second=1.0,
        eta_seconds=7.0,
    )  # fmt: skip
    said = world.settings.status_file("embed-realtime-0of1")
    gone = world.settings.status_file("embed-realtime-1of2")
    said.parent.mkdir(parents=True, exist_ok=True)
    said.write_text(status.model_dump_json())
    gone.write_text(status.model_copy(update={"run_id": "realtime-gone"}).model_dump_json())
    world.cut(1, hour=1)

    world.finish()

    assert EmbeddingRuns(world.settings.embeddings_dir).names(world.names[1]) == [status.run_id]
    assert (said.exists(), gone.exists()) == (True, False)


def test_no_rollover_can_be_finished_or_aborted_before_it_is_begun(world: World) -> None:
    assert refusal(world.finish).code == refusal(world.abort).code == "no_rollover"
    world.start(1)
    assert refusal(lambda: world.abort(2)).code == "no_rollover"


def test_a_damaged_record_is_refused_and_says_where_it_is(world: World) -> None:
    path = world.settings.towers_dir / "ROLLOVER.json"
    path.write_text('{"candidate": 3}')

    refused = refusal(world.start)

    assert refused.code == "bad_rollover" and str(path) in refused.expected


def cutter_status(world: World, live: list[int], candidate: CandidateStatus | None) -> None:
    said = CutterStatus(
        tier="realtime",
        written_at_ms=START_MS,
        started_at_ms=START_MS,
        live=[world.names[one] for one in live],
        rows={},
        lag_rows=0,
        last_hour_ms=None,
        missed_hours_ms=[],
        late_rows=0,
        snapshots=0,
        candidates={world.names[1]: candidate} if candidate else {},
    )
    path = world.settings.status_file("cutter-realtime")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(said.model_dump_json())


def test_an_abort_waits_for_the_cutter_to_let_go_and_says_so_when_it_does_not(world: World) -> None:
    world.start()
    world.cut(1, hour=1)
    cutter_status(world, [0, 1], None)
    lock = world.settings.cutter_lock("realtime")
    with held_alone(lock, Refused("running", "", "", "")):
        with pytest.raises(RetryableError, match="tier realtime still has it"):
            world.abort()
        assert world.live == [0]
        cutter_status(world, [0], None)
        assert any(name.startswith("snapshots/") for name in world.abort())
    assert read_rollover(world.settings) is None


def test_a_start_while_an_abort_waits_for_the_cutter_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start()
    world.cut(1, hour=1)
    listing = world.listing()
    wait = candidate_traces.wait_for_cutters

    def started_meanwhile(*arguments: Any) -> None:
        wait(*arguments)
        world.start()

    monkeypatch.setattr(rollover, "wait_for_cutters", started_meanwhile)
    with pytest.raises(Refused, match="rollover_restarted"):
        world.abort()
    assert (world.live, world.listing()) == ([0, 1], listing)

    monkeypatch.undo()
    assert any(name.startswith("snapshots/") for name in world.abort())
    assert world.live == [0]


def test_the_progress_tells_coverage_time_left_and_what_is_missing(tiered: World) -> None:
    tiered.start()
    half = CandidateStatus(
        pins=6, of=24, covered=0.25, behind=0, missing_pins=[3], ready=False,
        blocked="no row of 18 of 24 Pins (3, …)", partitions={0: 0.5, 1: 0.0},
    )  # fmt: skip
    cutter_status(tiered, [0, 1], half)
    tiered.now = 10.0

    progress = tiered.progress()

    realtime, slow = progress.tiers["realtime"], progress.tiers["slow"]
    assert (realtime.covered, realtime.pins, realtime.of) == (0.25, 6, 24)
    assert realtime.partitions == {0: 0.5, 1: 0.0}
    # A quarter took 10 s, so three quarters take 30.
    assert realtime.eta_seconds == 30.0
    assert (slow.covered, slow.eta_seconds) == (0.0, None)
    assert progress.eta_seconds is None
    assert progress.missing[0] == "tier realtime: no row of 18 of 24 Pins (3, …)"
    assert progress.covered == pytest.approx((24 * 0.25) / (24 + slow.of)) if slow.of else False


def test_the_progress_follows_the_batch_run(world: World) -> None:
    world.start()
    run = world.run_of(1)
    status = EmbedStatus(
        tier="realtime", tower_version=world.names[1], run_id=run, written_at_ms=START_MS, partitions=2,
        done=0, state_rows=5, state_rows_expected=10, rows=4, failed=0, rows_per_second=1.0,
        eta_seconds=7.0, cpu_seconds=2.5,
    )  # fmt: skip
    path = world.settings.status_file("embed-realtime-0of1")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(status.model_dump_json())

    progress = world.progress()

    assert (progress.tiers["realtime"].run, progress.tiers["realtime"].shards) == (run, "0/2")
    assert progress.eta_seconds == 7.0
    assert (progress.cost.batch_cpu_seconds, progress.cost.batch_rows) == (2.5, 4)


def worker_status(world: World, started: int, cpu: float, rows: int, rss: int) -> None:
    work = TowerStatus(embed_cpu_seconds=cpu, rows=rows, row_bytes=100 * rows, backfill_rows=0)
    said = WorkerStatus(
        worker="worker-0", started_at_ms=started, written_at_ms=started, rss_bytes=rss,
        events_per_second=0.0, events=rows, dead_letters=0, lag_events=0, partitions=1, backfills={},
        live=world.names, towers={world.names[0]: work, world.names[1]: work},
    )  # fmt: skip
    path = world.settings.status_file("worker-0")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(said.model_dump_json())


def test_the_cost_counts_from_the_start_and_says_when_a_worker_forgot(world: World) -> None:
    worker_status(world, 1, cpu=5.0, rows=50, rss=1000)
    world.start()
    worker_status(world, 1, cpu=7.5, rows=80, rss=1600)

    cost = world.progress().cost

    candidate = cost.towers[world.names[1]]
    assert (candidate.embed_cpu_seconds, candidate.rows, candidate.row_bytes) == (2.5, 30, 3000)
    assert (cost.rss_bytes, cost.rss_growth_bytes, cost.at_least) == (1600, 600, False)
    worker_status(world, 2, cpu=1.0, rows=10, rss=1200)
    again = world.progress().cost
    assert (again.towers[world.names[1]].rows, again.at_least) == (10, True)


_KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from typing import Any
from entrypoints import rollover, rollover_record
from entrypoints.settings import Settings
import index.releases, models.live_towers, streams.embedding_runs
from tests.entrypoints.test_rollover import MANUAL, WISH, World

data, command, version, target, wanted = Path(sys.argv[1]), *sys.argv[2:5], int(sys.argv[5])
count = [0]
places = {
    "write_rollover": rollover, "remove_rollover": rollover, "discard_runs": rollover,
    "discard_snapshots": rollover, "discard_releases": rollover, "wait_for_cutters": rollover,
    "close_rollover": rollover, "build_from_snapshots": rollover,
    "write_atomic": models.live_towers, "append_durably": index.releases, "rmtree": shutil,
}
module = places[target]
real = getattr(module, target)
def killing(*arguments, **named):
    count[0] += 1
    if count[0] == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)
setattr(module, target, killing)
world = World(Settings.load(data_dir=data))
if command == "start":
    rollover.start_rollover(world.settings, version, MANUAL, world.times)
elif command == "finish":
    rollover.finish_rollover(world.settings, version, WISH, world.times)
else:
    rollover.abort_rollover(world.settings, version, world.times)
"""


def kill(world: World, command: str, target: str, nth: int = 1) -> None:
    """Run a command in a process that is killed at the call of `target`."""
    arguments = [str(world.settings.data_dir), command, world.names[1], target, str(nth)]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, *arguments],
        check=False,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("SKEWLESS_")},
    )
    assert done.returncode == -signal.SIGKILL, target


@pytest.mark.parametrize("target", ["write_rollover", "write_atomic"])
def test_a_start_that_is_killed_is_given_again(world: World, target: str) -> None:
    kill(world, "start", target)
    assert world.live == [0]

    world.start(1, MANUAL)

    assert world.live == [0, 1] and world.progress().state == "under way"


@pytest.mark.parametrize("target", ["build_from_snapshots", "append_durably", "close_rollover"])
def test_a_finish_that_is_killed_is_given_again(world: World, target: str) -> None:
    world.start(1, MANUAL)
    world.cut(1, hour=1)
    kill(world, "finish", target)
    assert world.live == [0, 1]

    world.finish()

    assert (world.live, world.serving) == ([1], 1)
    assert read_rollover(world.settings) is None
    assert [move.tower_version for move in release_store(world.settings).audit()] == world.names[:2]


def test_a_finish_that_is_killed_after_the_publication_is_settled_by_the_next_snapshot(world: World) -> None:
    world.start(1, MANUAL)
    world.cut(1, hour=1)
    kill(world, "finish", "close_rollover")

    world.release(world.cut(1, hour=2))

    assert (world.live, read_rollover(world.settings)) == ([1], None)


@pytest.mark.parametrize(
    "target",
    [
        "write_atomic",
        "wait_for_cutters",
        "discard_runs",
        "discard_snapshots",
        "discard_releases",
        "remove_rollover",
    ],
)
def test_an_abort_that_is_killed_is_given_again_and_leaves_nothing(world: World, target: str) -> None:
    before = world.listing()
    world.start(1, MANUAL)
    world.run_of(1)
    world.release(world.cut(1, hour=1))
    kill(world, "abort", target)

    world.abort()

    assert world.listing() == before and world.live == [0]


def test_an_abort_that_is_killed_while_it_deletes_a_snapshot_is_given_again_and_leaves_nothing(
    world: World,
) -> None:
    before = world.listing()
    world.start(1, MANUAL)
    world.cut(1, hour=1)
    kill(world, "abort", "rmtree")

    world.abort()

    assert world.listing() == before
    assert world.cut(1, hour=1).snapshot_id in list_snapshots(world.settings.snapshots_dir)
