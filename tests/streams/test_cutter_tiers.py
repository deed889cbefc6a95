"""The cutter of one tier of several, and what the batch embedder gives it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.tier_slices import in_tier
from index.snapshots import ATTRIBUTES, SnapshotRows, list_snapshots, read_snapshot, write_snapshot
from schemas.manifests import SnapshotManifest
from schemas.statuses import CutterStatus
from schemas.tiers import Tier
from schemas.topics import PIN_FEATURES
from streams.cut_policy import EventTimeCut, WallClockCut
from streams.cutter import Cutter, CutterSettings, CutterSurroundings
from streams.cutter_status import read_cutter_status
from tests.schemas.examples import VERSION_A, VERSION_B

from .embedded_rows_on_a_topic import EPOCH_MS, HOUR_MS, MemoryTopic, Room, read_all, row, tower

FAST = Tier(name="fast", first_bucket=0, end_bucket=30)
SLOW = Tier(name="slow", first_bucket=30, end_bucket=100)


def cutter(room: Room, tier: Tier = FAST, before: CutterStatus | None = None, wall: bool = False) -> Cutter:
    shown: list[CutterStatus] = []
    around = CutterSurroundings(
        live=lambda: room.live,
        clock_ms=lambda: room.now_ms,
        outlet=room.letters,
        on_snapshot=room.told.append,
        before=before,
        show=shown.append,
    )
    policy = WallClockCut() if wall else EventTimeCut()
    made = Cutter(room.topic, CutterSettings(room.root, tier, batch_size=7), policy, around)
    made.start()
    setattr(made, "shown", shown)  # noqa: B010
    return made


def status(of: Cutter) -> CutterStatus:
    shown: list[CutterStatus] = getattr(of, "shown")  # noqa: B009
    return shown[-1]


def base(
    room: Room, pins: dict[int, int], version: str = VERSION_B, tier: str = "fast", end: int = 9
) -> SnapshotManifest:
    """A batch snapshot: Pin -> revision."""
    attributes = np.zeros(len(pins), ATTRIBUTES)
    attributes["pin_id"], attributes["changed_offset"] = list(pins), list(pins.values())
    attributes["occurred_at_ms"] = attributes["ingested_at_ms"] = EPOCH_MS
    attributes["bid_micros"], attributes["status"] = list(pins.values()), 1
    attributes["input_mask"] = 3
    vectors = np.array([[revision % 64, pin % 64, 1.0, 0.5] for pin, revision in pins.items()], "<f2")
    rows = SnapshotRows(
        attributes,
        vectors,
        [version],
        np.zeros(len(pins), np.uint8),
        pa.array([f"Pin {pin}" for pin in pins], pa.string()),
    )
    return write_snapshot(
        room.root,
        rows,
        tier=tier,
        hour_ms=EPOCH_MS,
        clock="event",
        pin_inputs=["price", "brand"],
        offsets={PIN_FEATURES.name: {0: end}},
        source="batch",
    )


def revisions(room: Room, snapshot_id: str) -> dict[int, int]:
    fields = read_snapshot(room.root, snapshot_id)[1].attributes
    return dict(zip(fields["pin_id"].tolist(), fields["changed_offset"].tolist(), strict=True))


def test_each_tier_cuts_its_own_pins_and_together_they_cut_all(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for pin in range(60):
        room.topic.put(*row(pin))
    cut = {}
    for tier in (FAST, SLOW):
        one = cutter(room, tier)
        read_all(one)
        (manifest,) = one.cut()
        assert manifest.tier == tier.name
        assert manifest.offsets == {"pin.embedded.v1": {0: 30, 1: 30}}
        cut[tier.name] = set(revisions(room, manifest.snapshot_id))

    assert cut["fast"] == {pin for pin in range(60) if in_tier(np.array([pin]), FAST)[0]}
    assert cut["fast"] | cut["slow"] == set(range(60)) and not cut["fast"] & cut["slow"]


def test_rows_of_other_tiers_do_not_close_a_tiers_hour(tmp_path: Path) -> None:
    room = Room(tmp_path)
    ours = next(pin for pin in range(100) if in_tier(np.array([pin]), FAST)[0])
    theirs = next(pin for pin in range(100) if in_tier(np.array([pin]), SLOW)[0])
    room.topic.put(*row(ours), partition=0)
    room.topic.put(*row(theirs, hour=5.0), partition=0)
    room.topic.put(*row(ours, 1, hour=0.5), partition=0)
    one = cutter(room)
    read_all(one)

    assert room.told == []
    assert one.counts.other_tiers_rows == 1
    assert revisions(room, one.cut()[0].snapshot_id) == {ours: 1}


def ours_of(pins: range) -> set[int]:
    return {pin for pin in pins if in_tier(np.array([pin]), FAST)[0]}


def test_a_tier_that_lost_buckets_cuts_without_the_pins_that_it_had_there(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for pin in range(60):
        room.topic.put(*row(pin))
    whole = cutter(room, Tier(name="fast"))
    read_all(whole)
    assert [one.rows for one in whole.cut()] == [60]

    narrowed = cutter(room)
    room.topic.put(*row(min(ours_of(range(60))), 1))
    read_all(narrowed)
    (manifest,) = narrowed.cut()

    assert set(revisions(room, manifest.snapshot_id)) == ours_of(range(60)) != set(range(60))


def test_a_tier_that_lost_buckets_is_cut_again_though_no_row_has_come(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for pin in range(60):
        room.topic.put(*row(pin))
    whole = cutter(room, Tier(name="fast"), wall=True)
    read_all(whole)
    whole.cut()
    room.now_ms += HOUR_MS

    (manifest,) = cutter(room, wall=True).cut()

    assert set(revisions(room, manifest.snapshot_id)) == ours_of(range(60))
    room.now_ms += HOUR_MS
    assert cutter(room, wall=True).cut() == []


def test_pins_of_other_tiers_in_a_batch_snapshot_are_not_folded_in(tmp_path: Path) -> None:
    room = rollover(tmp_path)
    base(room, dict.fromkeys(range(60), 5), version=VERSION_A)

    (manifest,) = [one for one in cutter(room).cut() if VERSION_A in one.versions]

    assert set(revisions(room, manifest.snapshot_id)) == ours_of(range(60))


@pytest.mark.parametrize("seed", range(3))
def test_a_recut_of_a_tier_from_the_same_offsets_and_base_is_identical(tmp_path: Path, seed: int) -> None:
    written = []
    for number, batch in enumerate((3, 5)):
        room = Room(tmp_path / str(number), topic=MemoryTopic(seed + number))
        room.live = [tower(VERSION_A), tower(VERSION_B)]
        base(room, {pin: pin % 5 for pin in range(40) if in_tier(np.array([pin]), FAST)[0]})
        for place in range(120):
            for version in (VERSION_A, VERSION_B):
                room.topic.put(*row(place % 40, place // 40, version=version))
        one = cutter(room)
        one._settings = replace(one._settings, batch_size=batch)
        read_all(one)
        written.append(
            {
                f"{manifest.snapshot_id}/{path.name}": path.read_bytes()
                for manifest in one.cut()
                for path in (room.root / manifest.snapshot_id).iterdir()
            }
        )

    assert len(written[0]) == 8
    assert written[0] == written[1]


def rollover(tmp_path: Path) -> Room:
    """Tower A serves Pins 0 to 9 at revision 5; tower B has rows of 8 and 9 only, and is live."""
    room = Room(tmp_path, live=[tower(VERSION_A), tower(VERSION_B)])
    for pin in range(10):
        room.topic.put(*row(pin, 5))
        if pin >= 8:
            room.topic.put(*row(pin, 5, version=VERSION_B))
    return room


EVERY = Tier(name="fast")


def test_a_batch_snapshot_completes_a_candidate_at_the_next_cut(tmp_path: Path) -> None:
    room = rollover(tmp_path)
    one = cutter(room, EVERY)
    read_all(one)
    assert [set(manifest.versions) for manifest in one.cut()] == [{VERSION_A}]
    base(room, dict.fromkeys(range(10), 5))

    (manifest,) = one.cut()

    assert manifest.versions == {VERSION_B: 10} and manifest.source == "stream"
    assert manifest.offsets == {"pin.embedded.v1": {0: 6, 1: 6}}


def test_a_row_from_the_stream_that_is_newer_than_the_batch_snapshots_stays(tmp_path: Path) -> None:
    room = rollover(tmp_path)
    room.topic.put(*row(3, 9))
    room.topic.put(*row(3, 9, version=VERSION_B))
    for when in ("before", "after"):
        place = Room(tmp_path / when, room.topic, room.live)
        if when == "before":
            base(place, dict.fromkeys(range(10), 5))
        one = cutter(place, EVERY)
        read_all(one)
        if when == "after":
            base(place, dict.fromkeys(range(10), 5))
        (candidate,) = [manifest for manifest in one.cut() if VERSION_B in manifest.versions]
        assert revisions(place, candidate.snapshot_id) == {pin: 9 if pin == 3 else 5 for pin in range(10)}
    names = [list_snapshots(tmp_path / when) for when in ("before", "after")]
    assert names[0] == names[1]


def test_a_candidate_with_an_older_row_than_was_served_at_the_previous_cut_is_not_cut(tmp_path: Path) -> None:
    """User pain 4: an alias switched too soon serves what is older than before the switch."""
    room = rollover(tmp_path)
    base(room, {pin: 2 if pin == 4 else 5 for pin in range(10)})
    one = cutter(room, EVERY)
    read_all(one)
    assert len(one.cut()) == 2  # nothing was cut before, so nothing is known to have been served
    room.topic.put(*row(6, 6))
    room.topic.put(*row(6, 6, version=VERSION_B))
    read_all(one)

    assert [set(manifest.versions) for manifest in one.cut()] == [{VERSION_A}]
    one.step()
    candidate = status(one).candidates[VERSION_B]
    assert (candidate.behind, candidate.covered, candidate.ready) == (1, 1.0, False)
    assert "older rows than were cut before of 1 Pins" in candidate.blocked

    base(room, dict.fromkeys(range(10), 5), end=10)
    assert [set(manifest.versions) for manifest in one.cut()] == [{VERSION_B}]


def test_a_restarted_cutter_remembers_what_was_served(tmp_path: Path) -> None:
    room = rollover(tmp_path)
    one = cutter(room, EVERY)
    read_all(one)
    one.cut()
    base(room, {pin: 2 if pin == 4 else 5 for pin in range(10)})

    again = cutter(room, EVERY)
    read_all(again)

    assert again.cut() == []
    assert status(again).candidates[VERSION_B].behind == 1


def test_a_tower_that_comes_back_is_not_cut_before_it_is_level_with_the_one_that_served_meanwhile(
    tmp_path: Path,
) -> None:
    room = rollover(tmp_path)
    one = cutter(room, EVERY)
    base(room, dict.fromkeys(range(10), 5))
    read_all(one)
    assert len(one.cut()) == 2
    room.live = [tower(VERSION_B)]
    room.now_ms += 1_000
    room.topic.put(*row(3, 8, version=VERSION_B))
    read_all(one)
    one.cut()
    room.topic.put(*row(4, 9, version=VERSION_B))  # after the last cut of the tower that is turned away
    read_all(one)

    room.live = [tower(VERSION_A), tower(VERSION_B)]
    room.now_ms += 1_000
    for version in (VERSION_A, VERSION_B):
        room.topic.put(*row(5, 10, version=version))
    read_all(one)
    assert [set(manifest.versions) for manifest in one.cut()] == [{VERSION_B}]

    room.topic.put(*row(3, 8))
    read_all(one)
    assert one.cut() == []
    room.topic.put(*row(4, 9))
    read_all(one)
    (level,) = one.cut()
    assert revisions(room, level.snapshot_id)[4] == 9


def test_a_candidates_trouble_does_not_hold_up_the_serving_tower(tmp_path: Path) -> None:
    room = rollover(tmp_path)
    one = cutter(room, EVERY)
    read_all(one)
    one.cut()
    base(room, {77: 3})  # a Pin that the serving tower cannot embed
    room.topic.put(*row(2, 6))
    read_all(one)

    assert [set(manifest.versions) for manifest in one.cut()] == [{VERSION_A}]


def test_the_status_says_how_far_a_candidate_is_by_partition_and_what_is_missing(tmp_path: Path) -> None:
    room = rollover(tmp_path)
    one = cutter(room, EVERY)
    read_all(one)
    one.cut()
    room.now_ms += 60_000
    one.step()

    now = status(one)
    candidate = now.candidates[VERSION_B]
    assert (now.live, now.rows) == ([VERSION_A, VERSION_B], {VERSION_A: 10, VERSION_B: 2})
    assert (candidate.pins, candidate.of, candidate.covered, candidate.ready) == (2, 10, 0.2, False)
    assert candidate.missing_pins == list(range(8))
    assert "no row of 8 of 10 Pins (0, 1, 2" in candidate.blocked
    assert set(candidate.partitions) <= {0, 1}
    assert (now.lag_rows, now.snapshots) == (0, 1)


def test_a_tower_that_leaves_live_is_dropped_within_a_second_and_not_at_the_next_cut(tmp_path: Path) -> None:
    room = rollover(tmp_path)
    one = cutter(room, EVERY)
    read_all(one)
    room.live = [tower(VERSION_A)]
    room.now_ms += 1_000

    one.step()

    assert status(one).live == [VERSION_A]


def test_a_tower_that_leaves_live_is_dropped_after_the_clock_was_set_back_too(tmp_path: Path) -> None:
    room = rollover(tmp_path)
    one = cutter(room, EVERY)
    read_all(one)
    room.live = [tower(VERSION_A)]
    room.now_ms -= 600_000

    one.step()

    assert one._table.versions == [VERSION_A]


def test_a_status_is_written_after_the_clock_was_set_back_too(tmp_path: Path) -> None:
    room = rollover(tmp_path)
    one = cutter(room, EVERY)
    one._report._stopwatch = lambda: (
        0.0
    )  # the interval grows with what a status costs, which a busy machine decides
    read_all(one)
    room.now_ms -= 3_600_000

    room.now_ms += 1
    one.step()
    assert status(one).written_at_ms == room.now_ms
    room.now_ms += 4_999
    one.step()
    assert status(one).written_at_ms == room.now_ms - 4_999
    room.now_ms += 1
    one.step()
    assert status(one).written_at_ms == room.now_ms


def test_a_cutter_that_was_away_reads_what_it_missed_before_it_makes_the_overdue_cut(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.topic.put(*row(2))
    first = cutter(room, EVERY, wall=True)
    read_all(first)
    room.now_ms = EPOCH_MS + HOUR_MS
    first.step()
    assert [one.hour_ms for one in room.told] == [EPOCH_MS]
    for number in range(40):
        room.topic.put(*row(2 * number + 4, hour=1.0 + number / 20))
    room.told.clear()
    room.now_ms = EPOCH_MS + 4 * HOUR_MS + 60_000

    again = cutter(room, EVERY, before=status(first), wall=True)
    read_all(again)
    again.step()

    overdue = room.told[-1]
    assert overdue.hour_ms == EPOCH_MS + 3 * HOUR_MS
    assert len(room.told) == 2 and overdue.rows == 41
    assert status(again).missed_hours_ms == [EPOCH_MS + HOUR_MS, EPOCH_MS + 2 * HOUR_MS]
    assert status(again).last_hour_ms == EPOCH_MS + 3 * HOUR_MS
    assert (again.counts.missed_hours, status(again).missed_hours) == (2, 2)
    third = cutter(room, EVERY, before=status(again), wall=True)
    read_all(third)
    assert status(third).missed_hours == 2


def test_the_status_counts_dead_letters(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.topic.put(b"4:", b"{", partition=0)
    one = cutter(room, EVERY)
    read_all(one)
    one._report.hasten()
    one.step()

    assert status(one).dead_letters == 1


def test_hours_in_which_nothing_changed_are_not_missed(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.topic.put(*row(2))
    first = cutter(room, EVERY, wall=True)
    read_all(first)
    for hour in (1, 2, 3):
        room.now_ms = EPOCH_MS + hour * HOUR_MS
        first.step()
    room.now_ms += 60_000

    again = cutter(room, EVERY, before=status(first), wall=True)
    again.step()

    assert (status(again).missed_hours_ms, again.counts.missed_hours) == ([], 0)


def test_rows_of_hours_that_were_cut_are_counted_as_late(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for pin, hour in [(2, 0.0), (4, 1.0), (6, 0.5), (8, 0.9), (10, 1.1)]:
        room.topic.put(*row(pin, hour=hour))
    one = cutter(room, EVERY)
    read_all(one)

    assert one.counts.late_rows == 2


def test_a_damaged_status_of_before_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "cutter-fast.json"
    assert read_cutter_status(path) is None
    path.write_text('{"tier": 3')
    assert read_cutter_status(path) is None
