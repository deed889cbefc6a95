"""The ranking log: nothing that was queued is lost at close, a full queue says so, and recounts agree."""

import base64
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import InvalidMessage, RetryableError
from schemas.logs import RankingLog
from schemas.ranking import RankRequest
from serving.answers import log_of
from serving.live_release import Assembly
from serving.parts import ServingParts
from serving.ranked import Ranked
from serving.ranking_log import Counted, LogLimits, RankingLogWriter, read_ranking_log, recount_mixed

from .fakes import FakeTower, fake_index, live, pins, version

TOWER = version("tower")


@pytest.fixture
def ranked(parts: ServingParts, assembly: Assembly) -> Ranked:
    parts.handle.swap(live(fake_index("r1", TOWER, pins(30)), assembly))
    return parts.pipeline.rank(RankRequest(user_id=5, slots=4, request_id="q"))


def writer(directory: Path, drops: list[int], **limits: float) -> RankingLogWriter:
    return RankingLogWriter(directory, LogLimits(**limits), lambda: drops.append(1))  # type: ignore[arg-type]


def test_every_queued_row_is_on_disk_after_close(tmp_path: Path, ranked: Ranked) -> None:
    log = writer(tmp_path, [])
    for _ in range(500):
        log.append(ranked)
    log.close()
    rows = list(read_ranking_log(tmp_path))
    assert len(rows) == log.written == 500
    assert rows[0].request_id == "q"
    assert rows[0].user_id == 5
    assert [ad.pin_id for ad in rows[0].ads] == [100, 101, 102, 103]


def test_servers_of_one_directory_lose_no_row_to_each_other(tmp_path: Path, ranked: Ranked) -> None:
    drops: list[int] = []
    logs = [writer(tmp_path, drops, file_bytes=1, pause_seconds=0.001) for _ in range(8)]
    for _ in range(200):
        for log in logs:
            log.append(ranked)
    for log in logs:
        log.close()
    assert (len(drops), sum(1 for _ in read_ranking_log(tmp_path))) == (0, 1600)


def test_what_waits_to_be_written_does_not_hold_what_was_retrieved(
    tmp_path: Path, parts: ServingParts, ranked: Ranked
) -> None:
    log = writer(tmp_path, [])
    log.close()  # No writer any more: what is queued stays queued.
    other = parts.pipeline.rank(RankRequest(request_id="other"))
    held = [weakref.ref(one) for one in (other.retrieved_pins, other.retrieved_dots, other.shortlist_pins)]
    log.append(other)
    del other
    assert [one() for one in held] == [None, None, None]
    assert len(log._queue) == 1


def test_the_query_vector_is_kept_exactly(tmp_path: Path, ranked: Ranked) -> None:
    log = writer(tmp_path, [])
    log.append(ranked)
    log.close()
    (row,) = read_ranking_log(tmp_path)
    assert np.frombuffer(base64.b64decode(row.query_vector), "<f4").tolist() == ranked.query.tolist()
    assert row.ads[0].dot == pytest.approx(1.0)


def test_a_full_queue_drops_and_counts(tmp_path: Path, ranked: Ranked) -> None:
    drops: list[int] = []
    log = writer(tmp_path, drops, queue_rows=3, pause_seconds=60)
    log.close()  # No writer any more: what is queued stays queued.
    for _ in range(5):
        log.append(ranked)
    assert log.dropped == len(drops) == 2


def test_files_are_closed_at_their_size_and_read_in_order(tmp_path: Path, ranked: Ranked) -> None:
    log = writer(tmp_path, [], file_bytes=10_000)
    for _ in range(200):
        log.append(ranked)
    log.close()
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.jsonl"))]
    assert len(sizes) > 2
    counted = recount_mixed(tmp_path)
    assert (counted.responses, counted.pairs, counted.mixed) == (200, 800, 0)
    assert counted.tolerate == Counted()


def test_a_restart_begins_a_new_file(tmp_path: Path, ranked: Ranked) -> None:
    for _ in range(2):
        log = writer(tmp_path, [])
        log.append(ranked)
        log.close()
    assert [path.name for path in sorted(tmp_path.glob("*.jsonl"))] == [
        "ranking-000001.jsonl",
        "ranking-000002.jsonl",
    ]


def test_a_torn_last_line_is_passed_over_and_a_broken_one_is_not(tmp_path: Path, ranked: Ranked) -> None:
    log = writer(tmp_path, [])
    log.append(ranked)
    log.close()
    path = tmp_path / "ranking-000001.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    assert len(list(read_ranking_log(tmp_path))) == 1
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(InvalidMessage):
        list(read_ranking_log(tmp_path))


def test_where_there_is_no_log_nothing_is_counted_as_clean(tmp_path: Path) -> None:
    (tmp_path / "ranking-000001.jsonl.gz").touch()
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RetryableError, match="is SKEWLESS_DATA_DIR that of the server"):
            recount_mixed(directory)
    with pytest.raises(NotADirectoryError):
        recount_mixed(tmp_path / "ranking-000001.jsonl.gz")


def test_the_recount_finds_mixed_pairs(tmp_path: Path, parts: ServingParts, assembly: Assembly) -> None:
    release = live(fake_index("r1", TOWER, pins(30)), assembly)
    object.__setattr__(release, "query_tower", FakeTower(version("other")))
    parts.handle.swap(release)
    log = writer(tmp_path, [])
    log.append(parts.pipeline.rank(RankRequest(slots=3)))
    log.close()
    counted = recount_mixed(tmp_path)
    assert (counted.enforce.responses, counted.enforce.pairs, counted.enforce.mixed) == (1, 3, 3)
    assert not counted.kept


def test_the_ledger_and_the_log_agree_to_the_micro(parts: ServingParts, assembly: Assembly) -> None:
    rng = np.random.default_rng(1)
    attributes = pins(
        60,
        bid_micros=rng.integers(1_000, 50_000, 60),
        daily_budget_micros=rng.integers(1_000, 400_000, 60),
        advertiser_id=rng.integers(1, 9, 60),
    )
    parts.handle.swap(live(fake_index("r1", TOWER, attributes), assembly))
    budgets = dict(
        zip(attributes["pin_id"].tolist(), attributes["daily_budget_micros"].tolist(), strict=True)
    )
    for _ in range(300):
        parts.recorder.record(parts.pipeline.rank(RankRequest(slots=5)))
    parts.recorder.ranking_log.close()
    spent: dict[int, int] = {}
    for row in read_ranking_log(parts.config.data / "logs"):
        for ad in row.ads:
            spent[ad.pin_id] = spent.get(ad.pin_id, 0) + ad.price_micros
    assert sum(spent.values()) == parts.ledger.total_micros > 0
    day = parts.ledger.day_of(parts.clock.now_ms())
    assert parts.ledger.spent(day, spent) == list(spent.values())
    assert all(micros <= budgets[pin] for pin, micros in spent.items())


def test_rows_that_cannot_be_written_are_counted_and_later_ones_are_written(
    tmp_path: Path, ranked: Ranked
) -> None:
    drops: list[int] = []
    log = writer(tmp_path / "logs", drops)
    log.close()  # From here on the test writes, in the writer's place.
    (tmp_path / "logs").rmdir()
    log.append(ranked)
    log._write_burst()
    assert (log.written, log.dropped, len(drops)) == (0, 1, 1)

    (tmp_path / "logs").mkdir()
    log.append(ranked)
    log._write_burst()
    log._finish_file()
    assert (log.written, log.dropped) == (1, 1)
    assert len(list(read_ranking_log(tmp_path / "logs"))) == 1


@pytest.mark.parametrize("name", ["ranking-000003-copy.jsonl", "ranking-1.jsonl.jsonl", "ranking-.jsonl"])
def test_a_file_of_another_name_is_no_file_of_the_log(tmp_path: Path, ranked: Ranked, name: str) -> None:
    (tmp_path / name).write_bytes(b"a copy that somebody made\n")
    drops: list[int] = []
    log = writer(tmp_path, drops)
    log.append(ranked)
    log.close()
    assert (log.written, log.dropped, drops) == (1, 0, [])
    assert len(list(read_ranking_log(tmp_path))) == 1


def test_whatever_breaks_costs_its_rows_and_not_the_log(
    tmp_path: Path, ranked: Ranked, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops: list[int] = []
    rows, dropped = iter([1, 2]), threading.Event()

    def breaks_once(one: Ranked) -> RankingLog:
        if next(rows) == 1:
            raise ValueError("of a kind that nobody thought of")
        return log_of(one)

    def on_drop() -> None:
        drops.append(1)
        dropped.set()

    monkeypatch.setattr("serving.ranking_log.log_of", breaks_once)
    log = RankingLogWriter(tmp_path, LogLimits(pause_seconds=0.001), on_drop)
    log.append(ranked)
    assert dropped.wait(10)
    log.append(ranked)
    log.close()
    assert (log.written, log.dropped, len(drops)) == (1, 1, 1)
    assert len(list(read_ranking_log(tmp_path))) == 1


def test_rows_that_come_too_late_for_the_writer_are_counted_at_close(tmp_path: Path, ranked: Ranked) -> None:
    drops: list[int] = []
    log = writer(tmp_path, drops)
    log._closing.set()
    log._thread.join()
    log.append(ranked)
    log.close()
    log.close()
    assert (log.written, log.dropped, len(drops)) == (0, 1, 1)


def test_a_disk_that_fails_at_the_end_is_said(
    tmp_path: Path, ranked: Ranked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: int) -> None:
        raise OSError("input/output error")

    monkeypatch.setattr("os.fsync", fails)
    log = writer(tmp_path, [])
    log.append(ranked)
    log.close()
    assert "may not have the last rows of the ranking log: input/output error" in caplog.text
    assert log._file is None
