"""Releases as objects: what goes up and comes down, what lost connections and rivals leave, what is kept."""

import errno
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks.fixtures import save_tower
from features.shard_slices import Shard
from index.contents import read_release
from index.loading import load_index, load_shard
from index.object_releases import ObjectReleases
from index.object_store import Objects, S3Location, StoreRefused, memory_objects, s3_objects
from schemas.artefacts import READY
from schemas.errors import Refused, RetryableError
from tests.index.builders import INPUTS, REGISTRY, rows_of
from tests.index.stores import FailAt, Flaky, StoreWorkshop, ids_of


@pytest.fixture
def objects() -> Objects:
    return memory_objects()


@pytest.fixture
def workshop(tmp_path: Path, objects: Objects) -> StoreWorkshop:
    return StoreWorkshop(tmp_path / "builder", objects=objects)


@pytest.fixture
def elsewhere(tmp_path: Path, workshop: StoreWorkshop) -> ObjectReleases:
    return workshop.elsewhere(tmp_path / "server")


def _keys(objects: Objects, below: str) -> list[str]:
    return sorted(one.key for one in objects.list(below))


def test_a_release_lies_in_the_store_file_by_file(workshop: StoreWorkshop, objects: Objects) -> None:
    manifest = workshop.published(rows_of(10))
    names = [entry.name for entry in manifest.files]
    prefix = f"releases/{manifest.release_id}"
    assert _keys(objects, "releases") == sorted(
        f"{prefix}/{name}" for name in [*names, "manifest.json", READY]
    )
    assert _keys(objects, "audit") == ["audit/000000000001.json"]


def test_ready_goes_up_after_everything_else_and_the_pointer_after_ready(workshop: StoreWorkshop) -> None:
    assert workshop.objects is not None
    flaky = Flaky(workshop.objects)
    release = workshop.build(rows_of(10)).release_id
    workshop.elsewhere(workshop.root, flaky).publish(release, actor="a", reason="r")
    written = [key for operation, key in flaky.calls if operation.startswith("put")]
    assert written[-4:] == [
        f"releases/{release}/manifest.json",
        f"releases/{release}/READY",
        "audit/000000000001.json",
        "CURRENT",
    ]


def test_another_machine_loads_what_this_one_published(
    workshop: StoreWorkshop, elsewhere: ObjectReleases
) -> None:
    release = workshop.published(rows_of(30), kind="ivf").release_id
    assert elsewhere.current() == release
    assert len(load_index(elsewhere, release, registry_hash=REGISTRY)) == 30
    ours, theirs = workshop.releases.directory(release), elsewhere.directory(release)
    assert {p.name: p.read_bytes() for p in ours.iterdir()} == {
        p.name: p.read_bytes() for p in theirs.iterdir()
    }


def test_another_machine_publishes_rolls_back_and_sees_the_same_trail(
    workshop: StoreWorkshop, elsewhere: ObjectReleases
) -> None:
    first, second = (workshop.published(rows_of(10, seed=hour), hour).release_id for hour in (1, 2))
    assert elsewhere.rollback(actor="far", reason="bad").release_id == first
    elsewhere.publish(second, actor="far", reason="mended")
    assert ids_of(workshop.releases) == ids_of(elsewhere) == [first, second, first, second]


def test_what_is_here_needs_no_download_and_a_damaged_copy_is_fetched_again(
    workshop: StoreWorkshop, elsewhere: ObjectReleases, tmp_path: Path
) -> None:
    assert workshop.objects is not None
    release = workshop.published(rows_of(10)).release_id
    flaky = Flaky(workshop.objects)
    again = workshop.elsewhere(tmp_path / "server", flaky)
    again.fetch(release)
    assert "ranges" in {operation for operation, _ in flaky.calls}
    flaky.calls.clear()
    again.fetch(release)
    assert "ranges" not in {operation for operation, _ in flaky.calls}
    path = again.directory(release) / "vectors.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    read_release(again.fetch(release))
    (again.directory(release) / "manifest.json").write_bytes(b"{}")
    read_release(again.fetch(release))


def _flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def _cut(content: bytes) -> bytes:
    return content[:-1]


@pytest.mark.parametrize("name", ["vectors.safetensors", "attributes.parquet", "manifest.json", READY])
@pytest.mark.parametrize("damage", [_flip, _cut])
def test_a_damaged_object_is_refused_by_name_and_leaves_nothing_here(
    workshop: StoreWorkshop,
    elsewhere: ObjectReleases,
    objects: Objects,
    name: str,
    damage: Callable[[bytes], bytes],
) -> None:
    release = workshop.published(rows_of(10)).release_id
    key = f"releases/{release}/{name}"
    intact = objects.get(key)
    assert intact is not None
    objects.put(key, damage(intact.data))
    with pytest.raises(Refused) as refused:
        elsewhere.fetch(release)
    assert name in str(refused.value)
    assert not elsewhere.directory(release).exists()
    objects.put(key, intact.data)
    assert len(load_index(elsewhere, release, registry_hash=REGISTRY)) == 10


@pytest.mark.parametrize("key", ["CURRENT", "audit/000000000002.json"])
@pytest.mark.parametrize("damage", [_flip, _cut, lambda content: b"", lambda content: content[9:]])
def test_a_damaged_pointer_or_move_is_refused_by_name(
    workshop: StoreWorkshop,
    elsewhere: ObjectReleases,
    objects: Objects,
    key: str,
    damage: Callable[[bytes], bytes],
) -> None:
    for hour in (1, 2):
        workshop.published(rows_of(10, seed=hour), hour)
    intact = objects.get(key)
    assert intact is not None
    objects.put(key, damage(intact.data))
    with pytest.raises(Refused, match=key):
        elsewhere.audit()


def test_a_missing_object_is_refused_by_name(
    workshop: StoreWorkshop, elsewhere: ObjectReleases, objects: Objects
) -> None:
    first = workshop.published(rows_of(10, seed=1), 1).release_id
    second = workshop.published(rows_of(10, seed=2), 2).release_id
    key = f"releases/{first}/vectors.safetensors"
    objects.delete([key])
    with pytest.raises(Refused, match=key):
        elsewhere.fetch(first)
    with pytest.raises(Refused, match=key):
        elsewhere.rollback(actor="a", reason="r")
    assert elsewhere.current() == second


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("for_good", [False, True])
def test_a_store_that_goes_away_at_any_step_of_a_publication_leaves_no_dangling_pointer(
    tmp_path: Path, moment: str, for_good: bool
) -> None:
    for step in range(200):
        objects = memory_objects()
        workshop = StoreWorkshop(tmp_path / f"{step}", objects=objects)
        old = workshop.published(rows_of(10, seed=1), 1).release_id
        new = workshop.build(rows_of(10, seed=2), 2).release_id
        trouble = FailAt(moment, step, for_good=for_good)
        publisher = workshop.elsewhere(workshop.root, Flaky(objects, trouble))
        said_done = False
        try:
            publisher.publish(new, actor="test", reason="hourly")
            said_done = True
        except RetryableError:
            assert trouble.failed
        trouble.over = True
        reader = workshop.elsewhere(tmp_path / f"{step}-reader")
        current = reader.current()
        assert current in ([new] if said_done else [old, new])
        assert current is not None
        read_release(reader.fetch(current))
        assert ids_of(reader) == [old, new][: 1 + (current == new)]
        publisher.publish(new, actor="test", reason="again")
        assert ids_of(reader) == [old, new]
        if not trouble.failed:
            break
    assert step >= 8


def test_a_move_reported_as_failed_that_was_made_counts_once(workshop: StoreWorkshop) -> None:
    assert workshop.objects is not None
    release = workshop.build(rows_of(10)).release_id
    lost = [True]

    def no_answer(moment: str, operation: str, key: str) -> None:
        if moment == "after" and key == "CURRENT" and operation.startswith("put") and lost and lost.pop():
            raise RetryableError("no answer")

    publisher = workshop.elsewhere(workshop.root, Flaky(workshop.objects, no_answer))
    publisher.publish(release, actor="a", reason="r")
    assert not lost
    assert ids_of(workshop.releases) == [release]


def test_a_move_unheard_of_that_others_built_upon_is_known_to_have_happened(
    workshop: StoreWorkshop, elsewhere: ObjectReleases
) -> None:
    assert workshop.objects is not None
    first = workshop.published(rows_of(10, seed=1), 1).release_id
    second = workshop.build(rows_of(10, seed=2), 2).release_id
    third = workshop.build(rows_of(10, seed=3), 3).release_id
    lost = [True]

    def overtaken(moment: str, operation: str, key: str) -> None:
        if moment == "after" and operation == "put_if_match" and key == "CURRENT" and lost:
            lost.clear()
            workshop.releases.publish(third, actor="rival", reason="newer")
            raise RetryableError("no answer")

    publisher = workshop.elsewhere(workshop.root, Flaky(workshop.objects, overtaken))
    assert publisher.publish(second, actor="a", reason="r").release_id == second
    assert ids_of(elsewhere) == [first, second, third]


def test_of_two_publishers_between_look_and_move_the_first_wins_and_the_other_is_told(
    workshop: StoreWorkshop, elsewhere: ObjectReleases
) -> None:
    assert workshop.objects is not None
    live = workshop.published(rows_of(10, seed=1), 1).release_id
    mine = workshop.build(rows_of(10, seed=2), 2).release_id
    rivals = workshop.build(rows_of(10, seed=3), 2).release_id
    waiting = [True]

    def rival(moment: str, operation: str, key: str) -> None:
        if moment == "before" and operation == "put_if_match" and key == "CURRENT" and waiting:
            waiting.clear()
            workshop.releases.publish(rivals, actor="rival", reason="r", expected_current=live)

    publisher = workshop.elsewhere(workshop.root, Flaky(workshop.objects, rival))
    with pytest.raises(Refused, match="current_moved"):
        publisher.publish(mine, actor="a", reason="r", expected_current=live)
    assert ids_of(elsewhere) == [live, rivals]
    # The move that lost has left its number taken, and is in nobody's trail.
    publisher.publish(mine, actor="a", reason="r", expected_current=rivals)
    assert ids_of(elsewhere) == [live, rivals, mine]


def test_a_clean_up_and_a_publication_of_the_same_release_cannot_both_win(
    workshop: StoreWorkshop, elsewhere: ObjectReleases
) -> None:
    assert workshop.objects is not None
    old = workshop.published(rows_of(10, seed=1), 1).release_id
    for seed in (2, 3):
        workshop.published(rows_of(10, seed=seed), 1)
    waiting = [True]

    def clean_up(moment: str, operation: str, key: str) -> None:
        if moment == "before" and operation == "put_if_match" and key == "CURRENT" and waiting:
            waiting.clear()
            assert elsewhere.retain(0) == [old]

    publisher = workshop.elsewhere(workshop.root, Flaky(workshop.objects, clean_up))
    publisher.publish(old, actor="a", reason="back to the old one")
    current = elsewhere.current()
    assert current == old
    read_release(elsewhere.fetch(old))  # it was sent up once more, before it went live


def test_a_release_that_is_being_deleted_is_not_published(workshop: StoreWorkshop) -> None:
    assert workshop.objects is not None
    old = workshop.published(rows_of(10, seed=1), 1).release_id
    for seed in (2, 3):
        workshop.published(rows_of(10, seed=seed), 1)
    trouble = FailAt("before", 0, for_good=True)

    def die_in_the_deletion(moment: str, operation: str, key: str) -> None:
        if operation == "delete" or trouble.failed:
            trouble(moment, operation, key)

    keeper = workshop.elsewhere(workshop.root / "keeper", Flaky(workshop.objects, die_in_the_deletion))
    with pytest.raises(RetryableError):
        keeper.retain(0)
    with pytest.raises(RetryableError, match="being deleted"):
        workshop.releases.publish(old, actor="a", reason="r")
    trouble.over = True
    assert keeper.retain(3) == []  # finishes what the other began
    workshop.releases.publish(old, actor="a", reason="r")
    assert workshop.releases.current() == old


def test_discarding_deletes_what_was_sent_up_and_lost_its_race(
    workshop: StoreWorkshop, elsewhere: ObjectReleases, objects: Objects
) -> None:
    live = workshop.published(rows_of(10, seed=1), 1).release_id
    lost = workshop.build(rows_of(10, seed=2), 2).release_id

    def die_before_the_move(moment: str, operation: str, key: str) -> None:
        if key.startswith("audit/") and operation == "put_if_absent":
            raise RetryableError("gone")

    with pytest.raises(RetryableError):
        workshop.elsewhere(workshop.root, Flaky(objects, die_before_the_move)).publish(
            lost, actor="a", reason="r"
        )
    assert elsewhere.list() == [live, lost]
    assert workshop.releases.discard([live, lost]) == [lost]
    assert elsewhere.list() == workshop.releases.list() == [live]
    assert _keys(objects, f"releases/{lost}") == []


def test_a_half_uploaded_release_is_left_alone_until_its_time_is_up(tmp_path: Path, objects: Objects) -> None:
    patient = StoreWorkshop(tmp_path / "a", objects=objects)
    hasty = StoreWorkshop(tmp_path / "b", objects=objects, grace_seconds=-1e10)
    patient.published(rows_of(10))
    objects.put("releases/20180101T00Z-other/vectors.safetensors", b"half")
    assert patient.releases.retain(1) == []
    assert _keys(objects, "releases/20180101T00Z-other")
    # The workshop's clock stands near 1970, so that only a grace below zero is over.
    assert hasty.releases.retain(1) == []
    assert _keys(objects, "releases/20180101T00Z-other") == []


def test_an_interrupted_download_goes_on_where_it_stopped(
    workshop: StoreWorkshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workshop.objects is not None
    monkeypatch.setattr("index.object_mirror._RANGE_BYTES", 64)
    release = workshop.published(rows_of(200)).release_id
    trouble = FailAt("before", 3, for_good=True)

    def only_ranges(moment: str, operation: str, key: str) -> None:
        if operation == "ranges":
            trouble(moment, operation, key)

    flaky = Flaky(workshop.objects, only_ranges)
    reader = workshop.elsewhere(tmp_path / "reader", flaky)
    with pytest.raises(RetryableError):
        reader.fetch(release)
    assert not reader.directory(release).exists()
    assert reader.list() == [release]  # in the store; here it is not
    first_time = len([1 for operation, _ in flaky.calls if operation == "ranges"])
    trouble.over = True
    flaky.calls.clear()
    read_release(reader.fetch(release))
    undisturbed = Flaky(workshop.objects)
    workshop.elsewhere(tmp_path / "other", undisturbed).fetch(release)
    in_all = len([1 for operation, _ in undisturbed.calls if operation == "ranges"])
    resumed = len([1 for operation, _ in flaky.calls if operation == "ranges"])
    assert (first_time, resumed) == (3, in_all - 3)
    assert not (reader.root / ".mirror").exists()


def test_an_interrupted_download_with_a_damaged_part_starts_again(
    workshop: StoreWorkshop, elsewhere: ObjectReleases
) -> None:
    release = workshop.published(rows_of(10)).release_id
    stage = elsewhere.root / ".mirror" / release
    stage.mkdir(parents=True)
    (stage / "vectors.safetensors").write_bytes(b"not the beginning")
    (stage / "attributes.parquet").write_bytes(b"x" * 1_000_000)
    read_release(elsewhere.fetch(release))


def test_copies_are_bounded_and_the_live_one_and_its_predecessor_stay(
    tmp_path: Path, objects: Objects
) -> None:
    workshop = StoreWorkshop(tmp_path / "builder", objects=objects)
    server = StoreWorkshop(tmp_path / "server", objects=objects, cached_releases=2).releases
    unpublished = workshop.build(rows_of(10, seed=99), 0).release_id
    shutil.copytree(workshop.releases.directory(unpublished), server.directory(unpublished))
    ids = []
    for hour in range(1, 5):
        ids.append(workshop.published(rows_of(10, seed=hour), hour).release_id)
        server.fetch(ids[-1])
        kept = {path.name for path in server.root.iterdir() if (path / READY).is_file()}
        assert kept == {unpublished, *ids[-2:]}  # what nobody uploaded is no copy
    assert server.rollback(actor="a", reason="r").release_id == ids[-2]
    server.fetch(ids[0])
    kept = {path.name for path in server.root.iterdir() if (path / READY).is_file()}
    assert kept >= {unpublished, ids[0], ids[2]}


def test_a_tower_goes_up_with_its_release_and_comes_down_with_it(tmp_path: Path, objects: Objects) -> None:
    workshop = StoreWorkshop(tmp_path / "builder", objects=objects)
    tower = save_tower(tmp_path / "builder", seed=1)
    rows = rows_of(10, versions=(tower.tower_version,), dimension=tower.dimension)
    alike = tower.model_copy(update={"pin_inputs": INPUTS, "registry_hash": REGISTRY})
    release = workshop.build(rows, tower=alike).release_id
    workshop.releases.publish(release, actor="a", reason="r")

    server = workshop.elsewhere(tmp_path / "server")
    server.fetch(release)

    copied = tmp_path / "server" / "towers" / tower.tower_version
    ours = tmp_path / "builder" / "towers" / tower.tower_version
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == {
        p.name: p.read_bytes() for p in ours.iterdir()
    }
    shutil.rmtree(copied)
    objects.put(f"towers/{tower.tower_version}/weights.safetensors", b"x" * tower.files[0].size_bytes)
    with pytest.raises(Refused, match=r"towers/.*/weights.safetensors"):
        server.fetch_tower(tower.tower_version)
    assert not copied.exists()


def test_what_was_seen_last_is_kept_over_a_restart(
    workshop: StoreWorkshop, tmp_path: Path, objects: Objects
) -> None:
    release = workshop.published(rows_of(10)).release_id
    workshop.elsewhere(tmp_path / "server").current()

    def away(moment: str, operation: str, key: str) -> None:
        raise RetryableError("away")

    restarted = workshop.elsewhere(tmp_path / "server", Flaky(objects, away))
    with pytest.raises(RetryableError):
        restarted.current()
    assert restarted.last_seen() == release


def test_publishing_what_is_live_once_more_puts_back_what_the_store_lost(
    workshop: StoreWorkshop, elsewhere: ObjectReleases, objects: Objects
) -> None:
    release = workshop.published(rows_of(10)).release_id
    objects.delete([f"releases/{release}/vectors.safetensors", f"releases/{release}/READY"])
    with pytest.raises(Refused, match="not_ready"):
        elsewhere.fetch(release)
    workshop.releases.publish(release, actor="a", reason="mend")
    read_release(elsewhere.fetch(release))
    assert ids_of(elsewhere) == [release]


def test_another_release_under_a_name_that_is_taken_is_refused(
    workshop: StoreWorkshop, objects: Objects
) -> None:
    release = workshop.build(rows_of(10)).release_id
    objects.put(f"releases/{release}/READY", b"0" * 64 + b"\n")
    with pytest.raises(Refused, match="already_exists"):
        workshop.releases.publish(release, actor="a", reason="r")
    assert workshop.releases.current() is None


def test_the_trail_can_be_written_as_a_journal_that_only_grows(
    workshop: StoreWorkshop, tmp_path: Path
) -> None:
    store, path = workshop.elsewhere(workshop.root), tmp_path / "trail.jsonl"
    assert store.last_move() == 0
    workshop.published(rows_of(10, seed=1), 1)
    store.write_trail(path)
    before = path.read_bytes()
    workshop.published(rows_of(10, seed=2), 2)
    assert store.last_move() == 2
    store.write_trail(path)
    assert path.read_bytes().startswith(before)
    assert path.read_bytes().count(b"\n") == 2


def test_moves_of_the_trail_are_fetched_once(workshop: StoreWorkshop, tmp_path: Path) -> None:
    assert workshop.objects is not None
    for hour in range(1, 6):
        workshop.published(rows_of(10, seed=hour), hour)
    flaky = Flaky(workshop.objects)
    reader = workshop.elsewhere(tmp_path / "reader", flaky)
    assert len(reader.audit()) == 5
    flaky.calls.clear()
    assert len(workshop.elsewhere(tmp_path / "reader", flaky).audit()) == 5
    assert flaky.calls == [("get", "CURRENT")]
    (cached,) = (reader.root / ".moves").glob("*/000000000003.json")
    cached.write_bytes(cached.read_bytes()[:-9])
    assert len(reader.audit()) == 5  # a damaged copy is no reason to refuse


def test_what_is_kept_of_one_store_is_not_taken_for_anothers(tmp_path: Path) -> None:
    first = StoreWorkshop(tmp_path / "data", objects=memory_objects("s3://one"))
    releases = [first.published(rows_of(10, seed=hour), hour).release_id for hour in (1, 2)]
    assert ids_of(first.releases) and len(first.releases.audit()) == 2

    second = first.elsewhere(tmp_path / "data", memory_objects("s3://two"))
    assert second.last_seen() is None
    second.publish(releases[1], actor="a", reason="moved to another bucket")

    assert [move.release_id for move in second.audit()] == [releases[1]]
    with pytest.raises(Refused, match="no_predecessor"):
        second.rollback(actor="a", reason="r")
    assert [move.release_id for move in first.elsewhere(tmp_path / "data").audit()] == releases


def test_a_bucket_of_another_endpoint_is_another_store() -> None:
    addresses = {
        s3_objects(S3Location(bucket, "prefix", endpoint)).address
        for bucket in ("one", "two")
        for endpoint in ("", "https://minio:9000", "https://other:9000", "https://other:9000/")
    }
    assert len(addresses) == 6


IVF_FILES = ["vectors.safetensors", "attributes.parquet", "index.faiss", "lists.safetensors"]


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("name", [*IVF_FILES, "manifest.json", READY])
def test_a_copy_that_is_not_whole_is_fetched_again_when_it_is_loaded(
    workshop: StoreWorkshop, elsewhere: ObjectReleases, name: str, cut: bool
) -> None:
    release = workshop.published(rows_of(300), kind="ivf").release_id
    copy = elsewhere.fetch(release)
    intact = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert sorted(intact) == sorted([*IVF_FILES, "manifest.json", READY]), "every file has its turn"

    for load in (load_index, partial(load_shard, shard=Shard(1, 1))):
        (copy / name).unlink()
        if cut:
            (copy / name).write_bytes(intact[name][:-1])
        assert len(load(elsewhere, release, registry_hash=REGISTRY)) == 300
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == intact


def test_a_damaged_release_that_nobody_sent_up_is_refused_for_what_is_wrong_with_it(
    workshop: StoreWorkshop,
) -> None:
    for name, code in (("vectors.safetensors", "missing_file"), (READY, "not_ready")):
        release = workshop.build(rows_of(10, seed=len(code))).release_id
        (workshop.releases.directory(release) / name).unlink()
        with pytest.raises(Refused, match=f"{code}.*{name} in"):
            load_index(workshop.releases, release, registry_hash=REGISTRY)
        assert workshop.releases.directory(release).is_dir()


def _older_and_smaller(tmp_path: Path, publisher: ObjectReleases) -> str:
    """A release of hour 1 with 3 rows, built where the publisher is."""
    built = StoreWorkshop(tmp_path / "drawer", objects=memory_objects())
    old = built.build(rows_of(3, seed=2), 1).release_id
    shutil.copytree(built.releases.directory(old), publisher.directory(old))
    return old


@pytest.mark.parametrize("name", ["manifest.json", READY])
def test_a_damaged_copy_of_what_is_live_lets_no_older_or_smaller_release_through(
    workshop: StoreWorkshop, elsewhere: ObjectReleases, tmp_path: Path, name: str
) -> None:
    live = workshop.published(rows_of(100), 5)
    damaged = elsewhere.fetch(live.release_id) / name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    old = _older_and_smaller(tmp_path, elsewhere)
    assert elsewhere.manifest(live.release_id) == elsewhere.comparable_live() == live
    with pytest.raises(Refused, match="stale_release"):
        elsewhere.publish(old, actor="a", reason="r")
    assert elsewhere.current() == live.release_id


def test_a_store_that_lets_nobody_look_at_what_is_live_lets_nothing_through(
    workshop: StoreWorkshop, objects: Objects, tmp_path: Path
) -> None:
    live = workshop.published(rows_of(100), 5).release_id

    def expired(moment: str, operation: str, key: str) -> None:
        if (moment, operation) == ("before", "get") and key.startswith(f"releases/{live}"):
            raise StoreRefused("store_denied", "to be let in", "ExpiredToken", "Get a new one.")

    publisher = workshop.elsewhere(tmp_path / "laptop", Flaky(objects, expired))
    publisher.root.mkdir(parents=True)
    old = _older_and_smaller(tmp_path, publisher)
    with pytest.raises(Refused, match="store_denied"):
        publisher.publish(old, actor="a", reason="r")
    assert workshop.releases.current() == live


def test_what_is_damaged_in_the_store_too_may_be_replaced_by_any(
    workshop: StoreWorkshop, elsewhere: ObjectReleases, objects: Objects, tmp_path: Path
) -> None:
    live = workshop.published(rows_of(100), 5).release_id
    objects.put(f"releases/{live}/manifest.json", b"{}")
    old = _older_and_smaller(tmp_path, elsewhere)
    assert elsewhere.publish(old, actor="a", reason="better than nothing").release_id == old


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_file_keeps_nobody_from_following_a_rollback(
    workshop: StoreWorkshop,
    elsewhere: ObjectReleases,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    first, second = (workshop.published(rows_of(10, seed=hour), hour).release_id for hour in (1, 2))
    for release in (first, second):
        elsewhere.fetch(release)
    assert elsewhere.current() == second
    workshop.releases.rollback(actor="far", reason="bad")

    def full(path: Path, content: bytes) -> None:
        raise OSError(number, "the disk takes nothing", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("index.object_releases.write_atomic", full)
        assert [elsewhere.current() for _ in range(3)] == [first] * 3
        assert len(load_index(elsewhere, first, registry_hash=REGISTRY)) == 10
    assert [record.levelname for record in caplog.records] == ["WARNING"], "told once"
    assert elsewhere.last_seen() == second
    assert elsewhere.current() == elsewhere.last_seen() == first
