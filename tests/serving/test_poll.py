from threading import Event

import pytest

from serving.poll import Poll


def test_it_looks_at_once_and_again_until_it_is_closed() -> None:
    looks, thrice = [0], Event()

    def look() -> None:
        looks[0] += 1
        if looks[0] == 3:
            thrice.set()

    poll = Poll("test", look)
    poll.start(0.001)
    assert thrice.wait(10)
    poll.close()
    seen = looks[0]
    assert not Event().wait(0.02)
    assert looks[0] == seen


def test_one_that_never_started_closes() -> None:
    Poll("test", lambda: None).close()


def test_a_look_that_fails_is_said_once_and_looked_again(caplog: pytest.LogCaptureFixture) -> None:
    looks, thrice = [0], Event()

    def look() -> None:
        looks[0] += 1
        if looks[0] == 3:
            thrice.set()
        raise ZeroDivisionError

    poll = Poll("test", look)
    poll.start(0.001)
    assert thrice.wait(10)
    poll.close()
    assert len(caplog.records) == 1
