import random
from pathlib import Path

import pytest

from index.snapshots import list_snapshots, read_snapshot
from schemas.errors import Refused
from schemas.manifests import SnapshotManifest
from schemas.topics import PIN_EMBEDDED
from streams.cut_policy import WallClockCut
from tests.schemas.examples import VERSION_A, VERSION_B

from .embedded_rows_on_a_topic import EPOCH_MS, HOUR_MS, MemoryTopic, Room, read_all, row, tower


def hours(manifests: list[SnapshotManifest]) -> list[int]:
    return [(one.hour_ms - EPOCH_MS) // HOUR_MS for one in manifests]


def revisions(root: Path, snapshot_id: str) -> dict[int, int]:
    """Pin -> revision in the snapshot."""
    _, rows = read_snapshot(root, snapshot_id)
    return dict(
        zip(rows.attributes["pin_id"].tolist(), rows.attributes["changed_offset"].tolist(), strict=True)
    )


def files(root: Path, snapshot_id: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / snapshot_id).iterdir()}


def test_the_first_row_of_the_next_hour_cuts_what_came_before_it(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for number, hour in enumerate([0.0, 0.5, 1.0, 1.5]):
        room.topic.put(*row(2, number, hour=hour))
    cutter = room.cutter()
    read_all(cutter)
    assert hours(room.told) == [0]
    assert revisions(tmp_path, room.told[0].snapshot_id) == {2: 1}
    assert room.told[0].offsets == {PIN_EMBEDDED.name: {0: 2}}
    assert room.topic.committed == [{0: 2, 1: 0}]
    assert cutter.positions == {0: 4, 1: 0}
    assert hours(cutter.cut()) == [1]
    assert revisions(tmp_path, room.told[1].snapshot_id) == {2: 3}


def test_a_manifest_says_what_was_cut(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.topic.put(*row(2, 3, hour=0.25))
    cutter = room.cutter()
    read_all(cutter)
    (manifest,) = cutter.cut()
    assert manifest.versions == {VERSION_A: 1} and manifest.rows == 1
    assert manifest.clock == "event" and manifest.tier == "realtime"
    assert manifest.pin_inputs == ["price", "brand"]
    assert manifest.newest_event_ms == EPOCH_MS + HOUR_MS // 4


def test_a_late_row_belongs_to_the_next_snapshot(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for pin, hour in [(2, 0.0), (4, 1.0), (6, 0.5), (8, 2.0)]:
        room.topic.put(*row(pin, hour=hour))
    read_all(room.cutter())
    assert hours(room.told) == [0, 1]
    assert [set(revisions(tmp_path, one.snapshot_id)) for one in room.told] == [{2}, {2, 4, 6}]


def test_an_event_dated_in_the_future_closes_no_hour_before_its_time(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.topic.put(*row(2, 1))
    room.topic.put(*row(4, 1, hour=70_000.0, came_in=0.5))
    room.topic.put(*row(2, 2, hour=1.0))
    cutter = room.cutter()
    read_all(cutter)
    assert hours(room.told) == [0]
    assert revisions(tmp_path, room.told[0].snapshot_id) == {2: 1, 4: 1}
    assert hours(cutter.cut()) == [1]


def test_nothing_is_cut_when_nothing_changed(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.topic.put(*row(2, 5))
    cutter = room.cutter()
    assert cutter.cut() == []
    read_all(cutter)
    assert len(cutter.cut()) == 1
    room.topic.put(*row(2, 5))
    room.topic.put(*row(2, 4))
    read_all(cutter)
    assert cutter.cut() == []
    assert (cutter.counts.rows.repeated, cutter.counts.rows.late, cutter.counts.snapshots) == (1, 1, 1)


def test_rows_that_change_nothing_are_covered_by_the_snapshot_before_them(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.topic.put(*row(2, 5))
    cutter = room.cutter()
    read_all(cutter)
    cutter.cut()
    room.topic.put(*row(2, 5))
    room.topic.put(*row(2, 4))
    read_all(cutter)

    cutter.cut()
    cutter.cut()

    assert room.topic.committed == [{0: 1, 1: 0}, {0: 3, 1: 0}]


def test_the_wall_clock_cuts_without_new_rows(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.topic.put(*row(2))
    cutter = room.cutter(WallClockCut(every_seconds=10))
    read_all(cutter)
    assert room.told == []
    room.now_ms += 10_000
    cutter.step()
    assert hours(room.told) == [0] and room.told[0].clock == "wall"


def test_each_live_version_gets_a_snapshot_of_its_own_and_others_none(tmp_path: Path) -> None:
    room = Room(tmp_path, live=[tower(VERSION_A), tower(VERSION_B)])
    for version in (VERSION_A, VERSION_B, "d" * 64):
        room.topic.put(*row(2, version=version))
    cutter = room.cutter()
    read_all(cutter)
    assert [one.versions for one in cutter.cut()] == [{VERSION_A: 1}, {VERSION_B: 1}]
    assert cutter.counts.rows.foreign == 1


def test_a_candidate_is_cut_only_when_it_has_every_pin_of_the_serving_version(tmp_path: Path) -> None:
    room = Room(tmp_path, live=[tower(VERSION_A), tower(VERSION_B)])
    for pin in (2, 4):
        room.topic.put(*row(pin))
    room.topic.put(*row(2, version=VERSION_B))
    cutter = room.cutter()
    read_all(cutter)
    assert [set(one.versions) for one in cutter.cut()] == [{VERSION_A}]
    # What is durable for the candidate is nothing, so nothing is committed yet.
    assert room.topic.committed == [{0: 0, 1: 0}]
    room.topic.put(*row(4, version=VERSION_B))
    read_all(cutter)
    assert [set(one.versions) for one in cutter.cut()] == [{VERSION_B}]
    assert room.topic.committed[-1] == {0: 2 + 1 + 1, 1: 0}


def test_a_new_tower_named_first_is_not_cut_before_it_has_every_pin_of_the_old_one(tmp_path: Path) -> None:
    room = Room(tmp_path, live=[tower(VERSION_B), tower(VERSION_A)])
    for pin in (2, 4):
        room.topic.put(*row(pin, version=VERSION_A))
    room.topic.put(*row(2, version=VERSION_B))
    cutter = room.cutter()
    read_all(cutter)

    assert [set(one.versions) for one in cutter.cut()] == [{VERSION_A}]


def test_a_tower_that_goes_live_later_gets_the_rows_it_had_before(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.topic.put(*row(2))
    room.topic.put(*row(2, version=VERSION_B))
    cutter = room.cutter()
    read_all(cutter)
    cutter.cut()
    assert cutter.counts.rows.foreign == 1
    room.live = [tower(VERSION_A), tower(VERSION_B)]
    room.topic.put(*row(3, 1, version=VERSION_B))
    room.topic.put(*row(2, 1, version=VERSION_B))
    read_all(cutter)
    (manifest,) = cutter.cut()
    assert manifest.versions == {VERSION_B: 2}
    assert revisions(tmp_path, manifest.snapshot_id) == {2: 1, 3: 1}
    assert manifest.offsets == {PIN_EMBEDDED.name: {0: 3, 1: 1}}


def test_poison_is_acknowledged_as_dead_letters_and_passed_over(tmp_path: Path) -> None:
    room = Room(tmp_path)
    good_key, good_value = row(2)
    room.topic.put(good_key, good_value)
    room.topic.put(b"4:", b"{", partition=0)
    room.topic.put(b"no key", good_value, partition=0)
    room.topic.put(good_key, None, partition=0)
    room.topic.put(good_key, good_value.replace(b'"vector":"', b'"vector":"AAAA'), partition=0)
    room.topic.put(*row(6))
    cutter = room.cutter()
    read_all(cutter)
    assert sorted(room.letters.sent) == [
        "0/1 decode_error",
        "0/2 key_mismatch",
        "0/3 decode_error",
        "0/4 schema_invalid",
    ]
    assert room.letters.queued == [] and cutter.counts.dead_letters == 4
    (manifest,) = cutter.cut()
    assert set(revisions(tmp_path, manifest.snapshot_id)) == {2, 6}
    assert manifest.offsets == {PIN_EMBEDDED.name: {0: 6}}


def test_a_cutter_that_starts_resumes_from_its_newest_snapshot(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for pin in (2, 3):
        room.topic.put(*row(pin))
    first = room.cutter()
    read_all(first)
    (manifest,) = first.cut()
    room.told.clear()
    second = room.cutter()
    assert second.positions == {0: 1, 1: 1}
    assert [one.snapshot_id for one in room.told] == [manifest.snapshot_id]
    room.topic.put(*row(2, 1))
    read_all(second)
    assert second.counts.rows.applied == 1
    assert revisions(tmp_path, second.cut()[0].snapshot_id) == {2: 1, 3: 0}


def test_a_damaged_snapshot_is_passed_over_for_an_older_one(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.topic.put(*row(2))
    cutter = room.cutter()
    read_all(cutter)
    cutter.cut()
    room.topic.put(*row(2, 1))
    read_all(cutter)
    (newest,) = cutter.cut()
    vectors = tmp_path / newest.snapshot_id / "vectors.safetensors"
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"\x01")
    again = room.cutter()
    assert again.positions == {0: 1, 1: 0}


def test_snapshots_of_another_clusters_topic_are_refused(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.topic.put(*row(2))
    cutter = room.cutter()
    read_all(cutter)
    cutter.cut()
    room.topic = MemoryTopic()
    with pytest.raises(Refused, match="snapshot_ahead_of_topic"):
        room.cutter()


def test_a_recut_from_the_same_offsets_is_identical(tmp_path: Path) -> None:
    written = []
    for seed in range(3):
        room = Room(tmp_path / str(seed), topic=MemoryTopic(seed))
        for number in range(40):
            room.topic.put(*row(number % 9, number // 9))
        cutter = room.cutter(batch_size=3 + seed)
        read_all(cutter)
        (manifest,) = cutter.cut()
        written.append((manifest.snapshot_id, files(room.root, manifest.snapshot_id)))
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("seed", range(8))
def test_a_crash_anywhere_changes_no_snapshot(tmp_path: Path, seed: int) -> None:
    """One partition, 60 rows over six hours; the crashed cutter dies after every 1 to 9 messages."""
    rng = random.Random(seed)
    log = [row(2 * rng.randrange(5), number, hour=number / 10) for number in range(60)]
    for name in ("whole", "crashed"):
        room = Room(tmp_path / name)
        for key, value in log:
            room.topic.put(key, value)
        while True:
            cutter = room.cutter(batch_size=rng.randrange(1, 10))
            if name == "whole":
                read_all(cutter)
                break
            # Dies in the middle of every hour; progress is what reached the disk.
            for _ in range(rng.randrange(3, 9)):
                done = not cutter.step()
            if done:
                break
        cutter.cut()
    whole, crashed = tmp_path / "whole", tmp_path / "crashed"
    assert len(list_snapshots(whole)) == 6
    assert list_snapshots(whole) == list_snapshots(crashed)
    for snapshot_id in list_snapshots(whole):
        assert files(whole, snapshot_id) == files(crashed, snapshot_id)


def test_offsets_that_never_came_are_counted(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for number in range(5):
        room.topic.put(*row(2, number))
    cutter = room.cutter()
    room.topic.read_from({0: 3, 1: 0})
    read_all(cutter)
    assert cutter.counts.skipped_offsets == 3
