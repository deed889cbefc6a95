"""What both release stores promise, tested with the same words: on this machine's disk, and as objects."""

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.commit_races import race_of_threads
from benchmarks.commit_world import CommitWorld
from benchmarks.moto_server import location, moto_server
from index.contents import read_release
from index.loading import load_index
from index.object_store import Objects, memory_objects, s3_objects
from schemas.errors import Refused
from tests.index.builders import OTHER_REGISTRY, REGISTRY, Workshop, rows_of
from tests.index.stores import StoreWorkshop, ids_of


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    with moto_server() as address:
        yield address


@pytest.fixture(params=["disk", "memory", "s3"])
def objects(request: pytest.FixtureRequest) -> Objects | None:
    """None is the local disk. S3 is spoken over HTTP, to a server in a process of its own."""
    if request.param == "disk":
        return None
    if request.param == "memory":
        return memory_objects()
    return s3_objects(location(request.getfixturevalue("s3_address"), f"tests/{uuid.uuid4().hex}"))


@pytest.fixture
def workshop(objects: Objects | None, tmp_path: Path) -> Workshop:
    return Workshop(tmp_path) if objects is None else StoreWorkshop(tmp_path, objects=objects)


def _three(workshop: Workshop) -> list[str]:
    return [workshop.published(rows_of(10, seed=hour), hour).release_id for hour in (1, 2, 3)]


def test_an_empty_store_has_nothing(workshop: Workshop) -> None:
    store = workshop.releases
    assert (store.list(), store.current(), store.last_seen(), store.audit()) == ([], None, None, [])
    assert store.comparable_live() is None
    assert store.retain(1) == []
    with pytest.raises(Refused, match="no_predecessor"):
        store.rollback(actor="a", reason="r")


def test_a_built_release_is_complete_but_not_live(workshop: Workshop) -> None:
    manifest = workshop.build(rows_of(10))
    assert workshop.releases.list() == [manifest.release_id]
    assert workshop.releases.manifest(manifest.release_id) == manifest
    assert workshop.releases.current() is None


def test_moves_are_recorded_with_who_why_and_from_where(workshop: Workshop) -> None:
    first, second, third = _three(workshop)
    assert (workshop.releases.current(), workshop.releases.last_seen()) == (third, third)
    assert [
        (m.release_id, m.previous_release_id, m.action, m.actor, m.reason) for m in workshop.releases.audit()
    ] == [
        (first, None, "publish", "test", "hourly"),
        (second, first, "publish", "test", "hourly"),
        (third, second, "publish", "test", "hourly"),
    ]
    times = [m.occurred_at_ms for m in workshop.releases.audit()]
    assert times == sorted(times)


def test_publishing_what_is_live_changes_nothing(workshop: Workshop) -> None:
    release = workshop.published(rows_of(10)).release_id
    again = workshop.releases.publish(release, actor="other", reason="retry")
    assert (again, again.actor) == (workshop.releases.audit()[-1], "test")
    assert ids_of(workshop.releases) == [release]


def test_a_publisher_that_expects_another_release_loses(workshop: Workshop) -> None:
    first, second, third = _three(workshop)
    with pytest.raises(Refused) as caught:
        workshop.releases.publish(first, actor="a", reason="r", expected_current=second)
    assert (caught.value.code, caught.value.came) == ("current_moved", third)
    with pytest.raises(Refused, match="current_moved"):
        workshop.releases.rollback(actor="a", reason="r", expected_current=None)
    assert workshop.releases.current() == third


def test_an_older_a_much_smaller_and_a_foreign_release_are_refused(workshop: Workshop) -> None:
    foreign, small = workshop.build(rows_of(40, seed=3), 2), workshop.build(rows_of(10, seed=3), 2)
    older = workshop.build(rows_of(40, seed=4), 0)
    live = workshop.published(rows_of(40), 2).release_id
    for release, code in ((small, "too_few_rows"), (older, "stale_release")):
        with pytest.raises(Refused, match=code):
            workshop.releases.publish(release.release_id, actor="a", reason="r")
    with pytest.raises(Refused, match="registry_mismatch"):
        workshop.releases.publish(foreign.release_id, actor="a", reason="r", registry_hash=OTHER_REGISTRY)
    assert ids_of(workshop.releases) == [live]


def test_rollbacks_go_back_one_by_one_and_end_at_the_first(workshop: Workshop) -> None:
    first, second, third = _three(workshop)
    store = workshop.releases
    assert store.rollback(actor="a", reason="bad").release_id == second
    assert store.rollback(actor="a", reason="worse").release_id == first
    with pytest.raises(Refused, match="no_predecessor"):
        store.rollback(actor="a", reason="worst")
    assert store.current() == first
    store.publish(third, actor="a", reason="mended")
    assert store.rollback(actor="a", reason="not mended").release_id == first
    assert [move.action for move in store.audit()][3:] == ["rollback", "rollback", "publish", "rollback"]


def test_a_rollback_to_a_release_of_another_registry_is_refused(workshop: Workshop) -> None:
    _, _, third = _three(workshop)
    with pytest.raises(Refused, match="registry_mismatch"):
        workshop.releases.rollback(actor="a", reason="r", registry_hash=OTHER_REGISTRY)
    assert workshop.releases.current() == third


def test_retaining_keeps_the_newest_the_live_one_and_its_predecessor(workshop: Workshop) -> None:
    first, second, third = _three(workshop)
    fourth = workshop.published(rows_of(10, seed=4), 4).release_id
    for _ in range(2):
        workshop.releases.rollback(actor="a", reason="r")
    assert workshop.releases.current() == second
    assert workshop.releases.retain(1) == [third]
    assert workshop.releases.list() == [first, second, fourth]
    assert workshop.releases.retain(0) == [fourth]
    assert workshop.releases.retain(0) == []
    assert workshop.releases.rollback(actor="a", reason="r").release_id == first


def test_discarding_deletes_what_was_never_live_and_nothing_else(workshop: Workshop) -> None:
    first, second = _three(workshop)[:2]
    built = workshop.build(rows_of(10, seed=9), 3).release_id
    workshop.releases.rollback(actor="a", reason="r")
    everything = workshop.releases.list()
    assert workshop.releases.discard([first, second, built, "20180101T00Z-nothing"]) == [built]
    assert workshop.releases.list() == [name for name in everything if name != built]
    assert workshop.releases.discard([built]) == []


def test_what_is_live_loads_like_any_release(workshop: Workshop) -> None:
    release = workshop.published(rows_of(30), 1, kind="ivf").release_id
    assert len(load_index(workshop.releases, release, registry_hash=REGISTRY)) == 30


@pytest.mark.parametrize("release_id", ["../../etc", "/etc", ".", "", "x" * 500, "a/b", ".staged-1"])
def test_what_cannot_be_an_id_is_refused(workshop: Workshop, release_id: str) -> None:
    for attempt in (workshop.releases.manifest, workshop.releases.directory, workshop.releases.fetch):
        with pytest.raises(Refused, match="bad_id"):
            attempt(release_id)


def test_what_is_nowhere_is_refused(workshop: Workshop) -> None:
    with pytest.raises(Refused, match="not_ready"):
        workshop.releases.publish("20180101T00Z-nothing", actor="a", reason="r")
    with pytest.raises(Refused, match="not_ready"):
        workshop.releases.manifest("20180101T00Z-nothing")


def test_readers_find_a_whole_version_at_every_moment_of_publishing_going_back_and_cleaning_up(
    workshop: Workshop,
) -> None:
    """The wish behind hand-made aliases: versions, an atomic switch, a way back, nothing deleted too soon."""
    workshop.published(rows_of(10), 0)
    over, opened, broken = threading.Event(), [0], list[str]()

    def read() -> None:
        while not over.is_set():
            current = workshop.releases.current()
            try:
                assert current is not None
                read_release(workshop.releases.fetch(current))
                opened[0] += 1
            except Refused as refused:
                # Gone while it was opened is in order when something newer is live; nothing else is.
                if workshop.releases.current() == current:
                    broken.append(str(refused))

    reader = threading.Thread(target=read)
    reader.start()
    for hour in range(1, 9):
        workshop.published(rows_of(10, seed=hour), hour)
        if hour % 3 == 0:
            workshop.releases.rollback(actor="a", reason="r")
        workshop.releases.retain(2)
    over.set()
    reader.join()
    assert broken == []
    assert opened[0] > 0


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_five_writers_make_fifty_moves_and_none_is_lost_or_overwritten(tmp_path: Path, kind: str) -> None:
    # Not on S3: moto looks at a condition and writes in two steps, which is no compare-and-set.
    on_disk = kind == "disk"
    world = CommitWorld.on_disk(tmp_path) if on_disk else CommitWorld.in_store(tmp_path, memory_objects())
    result = race_of_threads(world, 5, 10)
    assert (result.commits, result.moves, result.gaps, result.overwritten) == (50, 50, 0, 0)
