import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.ranking_server import ServerProcess
from benchmarks.soak import Soak


@dataclass
class _Process:
    rss: int
    files: int = 10
    tasks: int = 4

    def rss_bytes(self) -> int:
        return self.rss

    def open_files(self) -> int:
        return self.files

    def threads(self) -> int:
        return self.tasks


@dataclass
class _Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def _lived(clock: _Clock, soak: Soak, process: _Process, sizes: list[int]) -> None:
    """A life with a look every half a minute; resident memory is one of `sizes` at each full minute."""
    process.rss = sizes[0]
    soak.begin(process)
    for size in sizes[1:]:
        clock.now += 30
        soak.look()
        clock.now += 30
        process.rss = size
        soak.look()


def test_the_longest_life_is_told_and_its_warm_up_counts_for_no_growth() -> None:
    clock = _Clock(1_000.0)
    soak = Soak(60.0, clock)
    _lived(clock, soak, _Process(9_000, files=99, tasks=99), [9_000, 9_900])
    _lived(clock, soak, _Process(100), [100, 1_000, 1_001, 1_002, 1_003])
    _lived(clock, soak, _Process(8_000, files=88, tasks=88), [8_000])
    found = soak.figures()
    assert (found["lives"], found["longest_life_seconds"], found["samples_after_warm_up"]) == (3, 240, 4)
    assert (found["first_rss_bytes"], found["last_rss_bytes"]) == (1_000, 1_003)
    # One byte in a minute is 60 in an hour: 60 / 1,000.
    assert found["rss_slope_share_per_hour"] == pytest.approx(0.06)
    assert (found["most_open_files"], found["most_threads"]) == (10, 4)
    assert found["samples"][0] == [0, 100, 10, 4]
    assert len(found["samples"]) == 5


def test_a_life_too_short_for_a_line_has_no_slope() -> None:
    clock = _Clock()
    soak = Soak(60.0, clock)
    _lived(clock, soak, _Process(100), [100, 110, 120])
    assert soak.figures()["rss_slope_share_per_hour"] is None
    assert soak.figures()["last_rss_bytes"] == 120


def test_the_most_open_files_and_threads_may_have_been_in_the_middle() -> None:
    clock, process = _Clock(), _Process(100)
    soak = Soak(60.0, clock)
    soak.begin(process)
    for files, tasks in ((30, 5), (12, 9), (11, 4)):
        clock.now += 60
        process.files, process.tasks = files, tasks
        soak.look()
    assert (soak.figures()["most_open_files"], soak.figures()["most_threads"]) == (30, 9)


@pytest.fixture
def waiting_thread() -> Iterator[threading.Thread]:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    yield thread
    done.set()
    thread.join()


def test_open_files_and_threads_are_those_of_the_process(
    tmp_path: Path, waiting_thread: threading.Thread
) -> None:
    process = ServerProcess(port=0, pid=os.getpid())
    files, threads = process.open_files(), process.threads()
    with (tmp_path / "one").open("w"), (tmp_path / "two").open("w"):
        assert process.open_files() == files + 2
    waiting_thread.start()
    assert process.threads() == threads + 1
    assert process.rss_bytes() > 10 * 2**20
