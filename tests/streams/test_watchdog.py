import threading

import pytest

from streams.watchdog import EXIT_STUCK, Watchdog, end_process


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_that_does_not_beat_is_ended() -> None:
    clock, ended = _Clock(), threading.Event()
    with Watchdog(0.04, clock, ended.set):
        clock.now = 1.0
        assert ended.wait(10)


def test_a_loop_that_beats_goes_on() -> None:
    clock = _Clock()
    watchdog = Watchdog(60.0, clock, lambda: None)
    with watchdog:
        clock.now = 61.0
        assert watchdog.overdue()
        watchdog.beat()
        assert not watchdog.overdue()


def test_nothing_is_ended_after_it_was_left() -> None:
    clock, ended = _Clock(), threading.Event()
    with Watchdog(0.04, clock, ended.set):
        pass
    clock.now = 1.0
    assert not ended.is_set()


def test_the_process_ends_with_a_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    end_process()
    assert codes == [EXIT_STUCK]
    assert EXIT_STUCK not in (0, 1, 2, 3)
