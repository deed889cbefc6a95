from typing import Any

import pytest

from benchmarks.simulation import is_met

ASKED: dict[str, Any] = {
    "seconds": 59.9,
    "seeds": 1_000,
    "seeds_with_violations": 0,
    "seeds_run_again": 100,
    "equal_traces": 100,
    "different_traces": 1_000,
    "planted": 21,
    "planted_caught": 21,
}


def test_a_run_that_keeps_every_promise_is_met() -> None:
    assert is_met(ASKED)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": 60.0},
        {"seeds_with_violations": 1},
        {"equal_traces": 99},
        {"seeds_run_again": 0, "equal_traces": 0},
        {"different_traces": 999},
        {"planted_caught": 20},
        {"planted": 0, "planted_caught": 0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_run_that_breaks_one_of_them_is_not(wrong: dict[str, Any]) -> None:
    assert not is_met(ASKED | wrong)
