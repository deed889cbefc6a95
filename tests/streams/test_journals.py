import errno
from dataclasses import dataclass
from pathlib import Path

import pytest

from index.releases import ReleaseStore
from schemas.artefacts import append_durably
from schemas.codec import encode
from schemas.errors import DeadLetterReason, RetryableError
from schemas.logs import ReleasePublished
from streams.journals import (
    Line,
    RankingJournal,
    ReleaseJournal,
    TrailJournal,
    head_of,
    line_key,
    whole_lines,
)
from tests.streams.raw_events import ranking_log


def move(to: str, previous: str | None, at_ms: int = 1_000) -> ReleasePublished:
    return ReleasePublished(
        release_id=to,
        previous_release_id=previous,
        tower_version="a" * 64,
        snapshot_id="realtime-20170101T00Z-01234567",
        action="publish",
        actor="test",
        reason="test",
        occurred_at_ms=at_ms,
    )


@pytest.fixture
def releases(tmp_path: Path) -> ReleaseJournal:
    return ReleaseJournal(tmp_path)


def write(journal: ReleaseJournal, *moves: ReleasePublished | bytes, current: str | None = None) -> Path:
    path = journal.root / "audit.jsonl"
    for one in moves:
        append_durably(path, one if isinstance(one, bytes) else encode(one))
    if current is not None:
        (journal.root / "CURRENT").write_text(current + "\n")
    return path


def moved(lines: list[Line]) -> list[str]:
    return [line_key(line.event).decode() for line in lines if not line.abandoned]


def test_moves_that_happened_are_lines_to_send(releases: ReleaseJournal) -> None:
    path = write(releases, move("A", None), move("B", "A"), current="B")

    assert moved(releases.lines(path, 0)) == ["A", "B"]


def test_the_last_move_waits_until_current_says_so(releases: ReleaseJournal) -> None:
    path = write(releases, move("A", None), move("B", "A"), current="A")
    before = releases.lines(path, 0)
    (releases.root / "CURRENT").write_text("B\n")
    after = releases.lines(path, before[-1].offset + before[-1].size_bytes)

    assert (moved(before), moved(after)) == (["A"], ["B"])


def test_an_abandoned_move_is_told_by_where_the_next_one_began(releases: ReleaseJournal) -> None:
    path = write(releases, move("A", None), move("B", "A"), move("C", "A"), current="C")

    lines = releases.lines(path, 0)

    assert moved(lines) == ["A", "C"]
    assert [line.abandoned for line in lines] == [False, True, False]


def test_a_move_that_was_abandoned_and_then_made_is_sent_once(releases: ReleaseJournal) -> None:
    path = write(releases, move("A", None), move("B", "A", 1), move("B", "A", 2), current="B")

    lines = releases.lines(path, 0)

    sent = [line.event.occurred_at_ms for line in lines if isinstance(line.event, ReleasePublished)]
    assert [line.abandoned for line in lines] == [False, True, False]
    assert sent[-1] == 2


def test_a_damaged_line_is_named_and_the_moves_around_it_stand(releases: ReleaseJournal) -> None:
    path = write(releases, move("A", None), b"{damaged", move("C", "B"), current="C")

    lines = releases.lines(path, 0)

    assert [line.reason for line in lines] == [None, DeadLetterReason.DECODE_ERROR, None]
    assert [line.abandoned for line in lines] == [False, False, False]


def test_a_damaged_current_lets_the_last_move_wait(releases: ReleaseJournal) -> None:
    path = write(releases, move("A", None), current="../A")

    assert releases.lines(path, 0) == []


def test_a_current_that_cannot_be_read_lets_the_last_move_wait(
    releases: ReleaseJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(releases, move("A", None), current="A")

    def stale(_: ReleaseStore) -> str:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(ReleaseStore, "pointer", stale)
        assert releases.lines(path, 0) == []
    assert len(releases.lines(path, 0)) == 1


def test_no_journal_is_no_error(tmp_path: Path) -> None:
    assert ReleaseJournal(tmp_path / "none").files() == []
    assert RankingJournal(tmp_path / "none").files() == []
    assert whole_lines(tmp_path / "gone", 0) == []


def test_a_half_written_line_is_passed_over_until_it_is_whole(tmp_path: Path) -> None:
    path, journal = tmp_path / "ranking-000001.jsonl", RankingJournal(tmp_path)
    text = encode(ranking_log(1_000))
    path.write_bytes(text + b"\n" + text[:50])
    before = journal.lines(path, 0)
    path.write_bytes(text + b"\n" + text + b"\n")
    after = journal.lines(path, len(text) + 1)

    assert [(line.offset, line.value) for line in before + after] == [(0, text), (len(text) + 1, text)]


def test_lines_are_read_in_chunks_and_one_longer_than_a_chunk_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\ntwo\n" + b"x" * 20 + b"\nfour\n")

    found, offset = [], 0
    while lines := whole_lines(path, offset, chunk_bytes=10):
        found += lines
        offset = lines[-1].offset + lines[-1].size_bytes

    assert [(line.offset, line.size_bytes, line.value, line.reason) for line in found] == [
        (0, 4, b"one", None),
        (4, 4, b"two", None),
        (8, 21, b"x" * 10, DeadLetterReason.TOO_LARGE),
        (29, 5, b"four", None),
    ]


def test_a_line_without_end_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 25)

    assert whole_lines(path, 0, chunk_bytes=10) == []


def test_a_file_is_told_from_another_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"first\nsecond\n")
    before = head_of(path, 6)
    path.write_bytes(b"first\nsecond\nthird\n")
    grown = head_of(path, 6)
    path.write_bytes(b"other\nsecond\n")

    assert (grown == before, head_of(path, 6) == before) == (True, False)
    assert head_of(tmp_path / "gone", 6) == ""


@dataclass
class FakeTrail:
    """A store with these moves; counts what it is asked for."""

    moves: list[ReleasePublished]
    away: bool = False
    asked: int = 0
    written: int = 0

    def last_move(self) -> int:
        self.asked += 1
        if self.away:
            raise RetryableError("the store is away")
        return len(self.moves)

    def write_trail(self, path: Path) -> None:
        self.written += 1
        path.write_bytes(b"".join(encode(one) + b"\n" for one in self.moves))


def test_every_move_of_a_stores_trail_is_sent_and_waits_while_the_store_is_away(tmp_path: Path) -> None:
    store = FakeTrail([move("A", None)])
    journal = TrailJournal(tmp_path / "trail.jsonl", store, 0.0, lambda: 0.0)
    (path,) = journal.files()
    sent = journal.lines(path, 0)
    store.moves.append(move("B", "A"))
    store.away = True
    assert journal.files() == [path]
    end = sent[-1].offset + sent[-1].size_bytes
    assert journal.lines(path, end) == []
    store.away = False
    journal.files()
    assert (moved(sent), moved(journal.lines(path, end))) == (["A"], ["B"])


def test_a_trail_that_stands_still_is_asked_for_now_and_then_and_written_once(tmp_path: Path) -> None:
    store, now = FakeTrail([move("A", None)]), 0.0
    journal = TrailJournal(tmp_path / "trail.jsonl", store, poll_seconds=2.0, clock=lambda: now)
    for _ in range(10):
        journal.files()
        now += 0.5
    assert (store.asked, store.written) == (3, 1)

    store.moves.append(move("B", "A"))
    now += 2.0
    (path,) = journal.files()
    assert (store.written, moved(journal.lines(path, 0))) == (2, ["A", "B"])


def test_a_trail_file_that_somebody_deleted_is_written_again(tmp_path: Path) -> None:
    store = FakeTrail([move("A", None)])
    journal = TrailJournal(tmp_path / "trail.jsonl", store, 0.0, lambda: 0.0)
    (path,) = journal.files()
    path.unlink()

    assert (journal.files(), store.written) == ([path], 2)


def test_a_store_that_is_away_is_left_alone_for_a_while_after_it_has_said_so(tmp_path: Path) -> None:
    store, now = FakeTrail([]), 0.0
    store.away = True

    def slow() -> float:
        return now + 10.0 * store.asked

    journal = TrailJournal(tmp_path / "trail.jsonl", store, poll_seconds=2.0, clock=slow)
    for _ in range(4):
        assert journal.files() == []
        now += 0.5
    assert store.asked == 1
