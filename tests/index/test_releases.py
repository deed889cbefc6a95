"""CURRENT moves whole, once per publisher, with its line in the trail; rollbacks go back along it."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

import index.releases
from index.contents import read_release
from index.releases import AUDIT, CURRENT, ReleaseStore
from schemas.artefacts import staged
from schemas.errors import Refused
from tests.index.builders import OTHER_REGISTRY, REGISTRY, TOWER_A, Workshop, reseal, rows_of, unshare


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def _three(workshop: Workshop) -> list[str]:
    return [workshop.published(rows_of(10, seed=hour), hour).release_id for hour in (1, 2, 3)]


def test_an_empty_store_has_nothing(workshop: Workshop) -> None:
    store = workshop.releases
    assert (store.list(), store.current(), store.audit(), store.comparable_live()) == ([], None, [], None)


def test_a_built_release_is_complete_but_not_live(workshop: Workshop) -> None:
    manifest = workshop.build(rows_of(10))
    assert workshop.releases.list() == [manifest.release_id]
    assert workshop.releases.manifest(manifest.release_id) == manifest
    assert workshop.releases.current() is None
    assert manifest.release_id.startswith(f"20171231T23Z-{TOWER_A[:8]}-")


def test_a_move_is_recorded_with_who_why_and_when(workshop: Workshop) -> None:
    first, second, third = _three(workshop)
    assert workshop.releases.current() == third
    assert [(m.release_id, m.previous_release_id, m.action, m.actor, m.reason, m.occurred_at_ms)
            for m in workshop.releases.audit()] == [
        (first, None, "publish", "test", "hourly", 1),
        (second, first, "publish", "test", "hourly", 2),
        (third, second, "publish", "test", "hourly", 3),
    ]  # fmt: skip


def test_publishing_what_is_live_changes_nothing(workshop: Workshop) -> None:
    release = workshop.published(rows_of(10)).release_id
    again = workshop.releases.publish(release, actor="other", reason="retry")
    assert again == workshop.releases.audit()[-1]
    assert again.actor == "test"
    assert len(workshop.releases.audit()) == 1


def test_the_first_publication_can_expect_that_nothing_is_live(workshop: Workshop) -> None:
    release = workshop.build(rows_of(10)).release_id
    workshop.releases.publish(release, actor="a", reason="r", expected_current=None)
    assert workshop.releases.current() == release


def test_a_rollback_to_a_damaged_release_is_refused(workshop: Workshop) -> None:
    _, second, third = _three(workshop)
    (workshop.releases.directory(second) / "vectors.safetensors").unlink()
    with pytest.raises(Refused, match="missing_file"):
        workshop.releases.rollback(actor="a", reason="r")
    assert workshop.releases.current() == third


def test_a_damaged_live_release_can_be_replaced(workshop: Workshop) -> None:
    release = workshop.published(rows_of(10), 2).release_id
    (workshop.releases.directory(release) / "READY").unlink()
    assert workshop.published(rows_of(3), 1).release_id == workshop.releases.current()


def test_a_release_of_another_registry_is_not_published(workshop: Workshop) -> None:
    release = workshop.build(rows_of(10)).release_id
    with pytest.raises(Refused, match="registry_mismatch"):
        workshop.releases.publish(release, actor="a", reason="r", registry_hash=OTHER_REGISTRY)
    workshop.releases.publish(release, actor="a", reason="r", registry_hash=REGISTRY)
    assert workshop.releases.current() == release


def test_a_crash_after_the_line_and_before_the_move_leaves_no_trace(workshop: Workshop) -> None:
    first, second, third = _three(workshop)
    (workshop.releases.root / CURRENT).write_text(second)  # as if the third move had stopped in between
    assert [move.release_id for move in workshop.releases.audit()] == [first, second]
    assert workshop.releases.rollback(actor="a", reason="r").release_id == first
    workshop.releases.publish(third, actor="a", reason="r")
    assert [move.release_id for move in workshop.releases.audit()] == [first, second, first, third]


def test_moves_that_are_interrupted_one_after_the_other_leave_a_trail_to_go_on_with(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = _three(workshop)
    late = [workshop.build(rows_of(10, seed=hour), hour).release_id for hour in (4, 5)]

    def full(*arguments: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(index.releases, "append_digest", full)
        for release_id in [*late, *late]:
            with pytest.raises(OSError, match="no space"):
                workshop.releases.publish(release_id, actor="a", reason="r")
            assert [move.release_id for move in workshop.releases.audit()] == [first, second, third]

    assert workshop.releases.rollback(actor="a", reason="r").release_id == second
    workshop.releases.publish(late[1], actor="a", reason="r")
    assert [move.release_id for move in workshop.releases.audit()] == [first, second, third, second, late[1]]


def test_a_line_cut_short_by_a_crash_is_dropped(workshop: Workshop) -> None:
    first, second, third = _three(workshop)
    path = workshop.releases.root / AUDIT
    text = path.read_bytes()
    path.write_bytes(text[:-40])
    digests = path.with_suffix(".sha256")
    digests.write_bytes(digests.read_bytes()[:130])  # a line's digest comes after the whole line
    (workshop.releases.root / CURRENT).write_text(second)
    assert [move.release_id for move in workshop.releases.audit()] == [first, second]
    workshop.releases.publish(third, actor="test", reason="hourly")
    assert path.read_bytes().count(b"\n") == 3
    assert [move.release_id for move in workshop.releases.audit()] == [first, second, third]


def test_a_trail_that_was_edited_is_refused(workshop: Workshop) -> None:
    _three(workshop)
    path = workshop.releases.root / AUDIT
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(Refused, match="bad_audit"):
        workshop.releases.audit()


_RACE = """
import sys
from pathlib import Path
from index.releases import ReleaseStore
from schemas.errors import Refused
root, release, expected = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
try:
    ReleaseStore(root).publish(release, actor=release, reason="race", expected_current=expected)
    print("won")
except Refused as refused:
    print(refused.code)
"""


def test_of_processes_that_publish_at_once_on_the_same_expectation_one_wins(workshop: Workshop) -> None:
    live = workshop.published(rows_of(10), 1).release_id
    candidates = [workshop.build(rows_of(10, seed=seed), 2).release_id for seed in (5, 6, 7)]
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACE, str(workshop.releases.root), candidate, live],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for candidate in candidates
    ]
    for publisher in publishers:
        assert publisher.stdout is not None
        assert publisher.stdout.readline() == "ready\n"
    answers = []
    for publisher in publishers:
        assert publisher.stdin is not None
        publisher.stdin.write("go\n")
        publisher.stdin.flush()
    for publisher in publishers:
        answers.append(publisher.communicate(timeout=60)[0].strip())
    assert sorted(answers) == ["current_moved", "current_moved", "won"]
    assert workshop.releases.current() == candidates[answers.index("won")]
    assert len(workshop.releases.audit()) == 2


def test_retaining_keeps_the_newest_the_live_one_and_its_predecessor(workshop: Workshop) -> None:
    first, second, third = _three(workshop)
    fourth = workshop.build(rows_of(10, seed=4), 4).release_id
    fifth = workshop.build(rows_of(10, seed=5), 5).release_id
    workshop.releases.rollback(actor="a", reason="r")
    assert workshop.releases.current() == second
    assert workshop.releases.retain(1) == [third, fourth]
    assert workshop.releases.list() == [first, second, fifth]
    assert workshop.releases.retain(0) == [fifth]
    assert workshop.releases.retain(0) == []


def test_retaining_leaves_alone_what_others_are_writing_and_clears_what_was_half_deleted(
    workshop: Workshop,
) -> None:
    store = workshop.releases
    store.root.mkdir(parents=True)
    for name in (".staged-killed", "unfinished", ".deleting-old"):
        (store.root / name).mkdir()
        (store.root / name / "vectors.safetensors").write_bytes(b"x")
    with staged(store.root) as other:
        assert store.retain(0) == []
        assert sorted(path.name for path in store.root.iterdir()) == [".lock", other.name, "unfinished"]


def test_a_release_does_not_share_its_manifest_with_the_snapshot(workshop: Workshop) -> None:
    release = workshop.build(rows_of(10))
    directory = workshop.releases.directory(release.release_id)
    shared = (directory / "vectors.safetensors").stat().st_ino
    snapshot = workshop.snapshots / release.snapshot_id
    assert shared == (snapshot / "vectors.safetensors").stat().st_ino
    unshare(directory)
    reseal(directory)
    assert ReleaseStore(workshop.releases.root).manifest(release.release_id) == release


def test_a_pointer_that_is_no_text_is_refused(workshop: Workshop) -> None:
    workshop.published(rows_of(10))
    (workshop.releases.root / CURRENT).write_bytes(b"\xff\x00")
    with pytest.raises(Refused, match="bad_current"):
        workshop.releases.current()


def test_publishing_what_is_live_begins_the_trail_anew_when_that_was_moved_away(workshop: Workshop) -> None:
    release = workshop.published(rows_of(10)).release_id
    (workshop.releases.root / AUDIT).unlink()
    workshop.releases.publish(release, actor="a", reason="new trail")
    assert [move.release_id for move in workshop.releases.audit()] == [release]


@pytest.mark.parametrize(
    "text", [b"../../etc", b"/etc/passwd", b"a\x00b", b"\xff\xfe", b"x" * 500, b".", b"", b"not-here"]
)
def test_a_current_that_is_no_id_is_refused_and_leads_nowhere(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "CURRENT").write_bytes(text)

    with pytest.raises(Refused) as refused:
        ReleaseStore(tmp_path).current()

    assert refused.value.code == "bad_current"


def test_a_current_that_may_not_be_read_says_nothing_about_what_it_holds(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.published(rows_of(10))
    # Patched, because nothing binds root, whom the tests may run as.
    monkeypatch.setattr(Path, "read_bytes", _may_not_be_read)

    with pytest.raises(PermissionError):
        workshop.releases.current()
    assert workshop.releases.last_seen() is None


def _may_not_be_read(path: Path) -> NoReturn:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def test_a_store_below_a_file_is_unreachable_and_a_directory_is_no_pointer(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "CURRENT").mkdir()

    with pytest.raises(NotADirectoryError):
        ReleaseStore(tmp_path / "file").current()
    with pytest.raises(Refused, match="bad_current"):
        ReleaseStore(tmp_path).current()


@pytest.mark.parametrize("release_id", ["../../etc", "/etc", ".", "", "x" * 500, "a/b"])
def test_what_cannot_be_an_id_is_refused(tmp_path: Path, release_id: str) -> None:
    with pytest.raises(Refused) as refused:
        ReleaseStore(tmp_path).manifest(release_id)

    assert refused.value.code == "bad_id"


def test_a_rollback_from_a_current_that_nobody_audited_is_refused(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    store = workshop.releases
    _three(workshop)
    (store.root / "CURRENT").write_text("somebody-elses-idea")

    with pytest.raises(Refused) as refused:
        store.rollback(actor="me", reason="test")

    assert refused.value.code == "bad_current"
    assert (store.root / "CURRENT").read_text() == "somebody-elses-idea"


def test_a_release_that_is_deleted_while_it_is_checked_does_not_go_live(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = workshop.build(rows_of(10, seed=1), 1).release_id
    live = workshop.published(rows_of(10, seed=2), 1).release_id
    rival = ReleaseStore(workshop.releases.root)

    def read_then_cleared_away(*args: Any) -> Any:
        contents = read_release(*args)
        assert rival.retain(0) == [old]
        return contents

    monkeypatch.setattr("index.releases.read_release", read_then_cleared_away)
    with pytest.raises(Refused, match="not_ready"):
        workshop.releases.publish(old, actor="a", reason="back to the old one")
    assert rival.current() == live
    assert [move.release_id for move in rival.audit()] == [live]


def test_a_directory_with_no_releases_name_is_not_listed_and_keeps_no_release(workshop: Workshop) -> None:
    first, second, third = _three(workshop)
    stray = workshop.releases.root / f"{first} copy"
    shutil.copytree(workshop.releases.directory(first), stray)
    assert workshop.releases.list() == [first, second, third]
    assert workshop.releases.retain(2) == [first]
    assert workshop.releases.list() == [second, third]
    assert (stray / "READY").is_file()
