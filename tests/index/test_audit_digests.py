"""Digests beside the audit trail: what was changed is seen, what a crash leaves is not taken for that."""

from pathlib import Path

import pytest

from index.audit_digests import append_digest, check_digests, complete_digests
from schemas.artefacts import append_durably
from schemas.errors import Refused


def _trail(root: Path, lines: list[bytes]) -> Path:
    path = root / "audit.jsonl"
    for line in lines:
        append_durably(path, line)
        append_digest(path, line)
    return path


def test_lines_as_they_were_written_pass(tmp_path: Path) -> None:
    check_digests(_trail(tmp_path, [b"one", b"two"]), [b"one", b"two"], unfinished=0)


@pytest.mark.parametrize(
    "lines",
    [[b"one", b"twO"], [b"One", b"two"], [b"two", b"one"], [b"one"], [], [b"one", b"two", b"3", b"4"]],
)
def test_lines_that_were_changed_moved_lost_or_added_are_refused(tmp_path: Path, lines: list[bytes]) -> None:
    path = _trail(tmp_path, [b"one", b"two"])
    with pytest.raises(Refused, match=r"audit\.jsonl"):
        check_digests(path, lines, unfinished=1)


def test_a_line_without_its_digest_is_what_a_crash_leaves_before_the_move_only(tmp_path: Path) -> None:
    path = _trail(tmp_path, [b"one"])
    append_durably(path, b"two")
    check_digests(path, [b"one", b"two"], unfinished=1)
    with pytest.raises(Refused, match="bad_audit"):
        check_digests(path, [b"one", b"two"], unfinished=0)
    append_durably(path, b"three")
    append_digest(path, b"three")
    check_digests(path, [b"one", b"two", b"three"], unfinished=0)


def test_a_trail_of_before_there_were_digests_gets_them_with_its_next_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    append_durably(path, b"old")
    check_digests(path, [b"old"], unfinished=0)
    append_durably(path, b"new")
    append_digest(path, b"new")
    check_digests(path, [b"old", b"new"], unfinished=0)
    with pytest.raises(Refused):
        check_digests(path, [b"Old", b"new"], unfinished=0)


def test_a_digest_that_a_crash_prevented_is_put_down_and_one_that_differs_is_left(tmp_path: Path) -> None:
    path = _trail(tmp_path, [b"one"])
    append_durably(path, b"two")
    complete_digests(path)
    complete_digests(path)
    check_digests(path, [b"one", b"two"], unfinished=0)

    path.write_bytes(b"One\ntwo\nthree\n")
    complete_digests(path)
    with pytest.raises(Refused, match="line 1"):
        check_digests(path, [b"One", b"two", b"three"], unfinished=1)
