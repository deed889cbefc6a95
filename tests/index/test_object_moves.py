"""The trail of one store is not mixed with that of another that was there before, at the same address."""

from pathlib import Path

import pytest

from index.object_store import Objects, memory_objects
from schemas.errors import Refused
from tests.index.builders import rows_of
from tests.index.stores import Flaky, StoreWorkshop, ids_of


def _published(tmp_path: Path, objects: Objects, hours: range) -> list[str]:
    """By a machine of its own."""
    workshop = StoreWorkshop(tmp_path, objects=objects)
    return [workshop.published(rows_of(10, seed=hour), hour).release_id for hour in hours]


@pytest.mark.parametrize("moves", [1, 2, 3, 4])
def test_a_bucket_that_was_emptied_and_begun_anew_has_the_new_trail_only(tmp_path: Path, moves: int) -> None:
    old, new = memory_objects("s3://one"), memory_objects("s3://one")
    server = StoreWorkshop(tmp_path / "server", objects=old)
    before = _published(tmp_path / "old", old, range(2))
    assert ids_of(server.releases) == before

    after = _published(tmp_path / "new", new, range(10, 10 + moves))
    again = server.elsewhere(tmp_path / "server", new)

    if moves > 1:
        assert again.rollback(actor="a", reason="r").release_id == after[-2]
        assert ids_of(again) == [*after, after[-2]]
    else:
        with pytest.raises(Refused, match="no_predecessor"):
            again.rollback(actor="a", reason="r")
    assert ids_of(again)[:moves] == after


def test_a_clean_up_knows_the_predecessor_of_the_new_trail(tmp_path: Path) -> None:
    old, new = memory_objects("s3://one"), memory_objects("s3://one")
    server = StoreWorkshop(tmp_path / "server", objects=old)
    _published(tmp_path / "old", old, range(3))
    assert len(server.releases.audit()) == 3
    after = _published(tmp_path / "new", new, range(10, 14))
    again = server.elsewhere(tmp_path / "server", new)
    assert again.retain(0) == after[:2]
    assert again.list() == after[2:]


def test_a_pointer_and_a_move_of_different_releases_are_refused(tmp_path: Path) -> None:
    objects, other = memory_objects(), memory_objects()
    _published(tmp_path / "old", objects, range(2))
    _published(tmp_path / "new", other, range(10, 12))
    foreign = other.get("audit/000000000002.json")
    assert foreign is not None
    objects.put("audit/000000000002.json", foreign.data)
    reader = StoreWorkshop(tmp_path / "reader", objects=Flaky(objects)).releases
    for look in (reader.audit, lambda: reader.rollback(actor="a", reason="r")):
        with pytest.raises(Refused, match=r"bad_audit.*audit/000000000002\.json"):
            look()


def test_a_disk_without_room_for_the_copies_of_moves_hides_no_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = memory_objects()
    ids = _published(tmp_path / "builder", objects, range(3))
    reader = StoreWorkshop(tmp_path / "reader", objects=objects).releases

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("index.object_moves.write_atomic", full)
    assert ids_of(reader) == ids
