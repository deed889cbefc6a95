"""Sent up again: what the store has is read back, and what nobody finished is nobody's."""

from pathlib import Path

import pytest

from benchmarks.fixtures import save_tower
from index.contents import read_release
from index.object_mirror import is_finished, upload
from index.object_store import Objects, memory_objects
from schemas.artefacts import MANIFEST, READY
from schemas.errors import RetryableError
from tests.index.builders import INPUTS, REGISTRY, rows_of
from tests.index.stores import FailAt, Flaky, StoreWorkshop, ids_of


@pytest.fixture
def objects() -> Objects:
    return memory_objects()


@pytest.fixture
def workshop(tmp_path: Path, objects: Objects) -> StoreWorkshop:
    return StoreWorkshop(tmp_path / "builder", objects=objects)


def _flip(objects: Objects, key: str) -> None:
    found = objects.get(key)
    assert found is not None
    objects.put(key, found.data[:-1] + bytes([found.data[-1] ^ 1]))


def _puts(flaky: Flaky, below: str) -> list[str]:
    written = [key for operation, key in flaky.calls if operation == "put"]
    return [key.removeprefix(f"{below}/") for key in written if key.startswith(f"{below}/")]


@pytest.mark.parametrize("name", ["vectors.safetensors", "attributes.parquet", MANIFEST])
def test_publishing_again_puts_back_an_object_of_the_same_size_with_other_bytes(
    workshop: StoreWorkshop, objects: Objects, tmp_path: Path, name: str
) -> None:
    release = workshop.published(rows_of(10)).release_id
    key = f"releases/{release}/{name}"
    _flip(objects, key)

    flaky = Flaky(objects)
    workshop.elsewhere(workshop.root, flaky).publish(release, actor="operator", reason="mend")

    assert _puts(flaky, f"releases/{release}") == [name]
    read_release(workshop.elsewhere(tmp_path / "server").fetch(release))
    assert ids_of(workshop.releases) == [release], "mending is no move"


def test_publishing_again_puts_back_a_damaged_ready(
    workshop: StoreWorkshop, objects: Objects, tmp_path: Path
) -> None:
    release = workshop.published(rows_of(10)).release_id
    objects.put(f"releases/{release}/{READY}", b"0" * 64 + b"\n")
    workshop.releases.publish(release, actor="operator", reason="mend")
    read_release(workshop.elsewhere(tmp_path / "server").fetch(release))


def test_publishing_again_mends_the_tower_too(tmp_path: Path, objects: Objects) -> None:
    workshop = StoreWorkshop(tmp_path / "builder", objects=objects)
    tower = save_tower(tmp_path / "builder", seed=1)
    rows = rows_of(10, versions=(tower.tower_version,), dimension=tower.dimension)
    alike = tower.model_copy(update={"pin_inputs": INPUTS, "registry_hash": REGISTRY})
    release = workshop.build(rows, tower=alike).release_id
    workshop.releases.publish(release, actor="a", reason="r")
    _flip(objects, f"towers/{tower.tower_version}/weights.safetensors")

    workshop.releases.publish(release, actor="operator", reason="mend")

    workshop.elsewhere(tmp_path / "server").fetch(release)
    copied = tmp_path / "server" / "towers" / tower.tower_version / "weights.safetensors"
    ours = tmp_path / "builder" / "towers" / tower.tower_version / "weights.safetensors"
    assert copied.read_bytes() == ours.read_bytes()


def test_what_an_upload_that_died_left_is_sent_again_whatever_its_size(
    workshop: StoreWorkshop, objects: Objects, tmp_path: Path
) -> None:
    release = workshop.build(rows_of(10)).release_id
    directory = workshop.releases.directory(release)
    vectors = (directory / "vectors.safetensors").stat().st_size
    objects.put(f"releases/{release}/vectors.safetensors", b"x" * vectors)

    workshop.releases.publish(release, actor="a", reason="r")

    server = workshop.elsewhere(tmp_path / "server")
    assert server.current() == release
    read_release(server.fetch(release))


def test_a_new_release_is_not_read_back_and_nothing_is_sent_twice(
    workshop: StoreWorkshop, objects: Objects
) -> None:
    flaky = Flaky(objects)
    release = workshop.build(rows_of(10)).release_id
    publisher = workshop.elsewhere(workshop.root, flaky)
    publisher.publish(release, actor="a", reason="r")
    assert "ranges" not in {operation for operation, _ in flaky.calls}
    names = _puts(flaky, f"releases/{release}")
    assert sorted(names) == sorted(path.name for path in publisher.directory(release).iterdir())
    assert names[-2:] == [MANIFEST, READY]

    flaky.calls.clear()
    publisher.publish(release, actor="a", reason="again")
    assert _puts(flaky, f"releases/{release}") == [], "it was read back and is whole"


def test_a_store_that_goes_away_while_it_is_read_back_is_no_damage(
    workshop: StoreWorkshop, objects: Objects
) -> None:
    release = workshop.published(rows_of(10)).release_id
    trouble = FailAt("before", 0, for_good=True)

    def only_ranges(moment: str, operation: str, key: str) -> None:
        if operation == "ranges" or trouble.failed:
            trouble(moment, operation, key)

    flaky = Flaky(objects, only_ranges)
    with pytest.raises(RetryableError):
        workshop.elsewhere(workshop.root, flaky).publish(release, actor="a", reason="r")
    assert _puts(flaky, f"releases/{release}") == []


def test_an_upload_says_whether_it_sent_anything(workshop: StoreWorkshop, objects: Objects) -> None:
    manifest = workshop.build(rows_of(10))
    directory, prefix = workshop.releases.directory(manifest.release_id), "releases/somewhere"
    assert not is_finished(objects, prefix)
    assert upload(objects, prefix, directory, manifest)
    assert is_finished(objects, prefix)
    assert not upload(objects, prefix, directory, manifest)
    _flip(objects, f"{prefix}/vectors.safetensors")
    assert not upload(objects, prefix, directory, manifest), "sizes alone"
    assert upload(objects, prefix, directory, manifest, read_back=True)
    assert not upload(objects, prefix, directory, manifest, read_back=True)


def test_what_interrupted_downloads_of_others_left_does_not_pile_up(
    workshop: StoreWorkshop, objects: Objects, tmp_path: Path
) -> None:
    ids = [workshop.published(rows_of(50, seed=hour), hour).release_id for hour in (1, 2, 3)]

    def away(moment: str, operation: str, key: str) -> None:
        if operation == "ranges" and "attributes" in key:
            raise RetryableError("gone")

    server = workshop.elsewhere(tmp_path / "server", Flaky(objects, away))
    for release in ids:
        for _ in range(2):
            with pytest.raises(RetryableError):
                server.fetch(release)
            left = server.root / ".mirror"
            assert [path.name for path in left.iterdir()] == [release], "its own, to go on with"
            assert (left / release / "vectors.safetensors").is_file()
