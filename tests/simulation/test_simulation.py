"""Seeds of the simulation: none breaks a promise, each repeats itself, planted bugs are caught."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from streams import intake

from . import sim_world
from .history import CRASHED
from .planted_bugs import PLANTED, Planted
from .plants import replacing
from .runner import catch, run_planted, run_seeds
from .sim_world import Outcome, simulate

_SEEDS = 150
_AGAIN = 20


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return list(run_seeds(range(_SEEDS)))


def _broken(outcomes: Sequence[Outcome]) -> list[str]:
    return [
        f"{outcome.violations[0]} (python -m tests.simulation {outcome.seed} -v)"
        for outcome in outcomes
        if outcome.violations
    ]


def test_no_seed_breaks_a_promise(outcomes: list[Outcome]) -> None:
    assert _broken(outcomes) == []
    assert sum(outcome.events for outcome in outcomes) > 10 * _SEEDS


def test_a_seed_gives_the_same_trace_in_another_process(outcomes: list[Outcome]) -> None:
    again = [simulate(seed).digest for seed in range(_AGAIN)]
    assert again == [outcome.digest for outcome in outcomes[:_AGAIN]]
    assert len(set(again)) == _AGAIN


@pytest.mark.parametrize(
    "bug",
    [
        "commit before acknowledge",
        "restore stops before the end",
        "checkpoint before its rows are acknowledged",
    ],
)
def test_a_planted_bug_is_caught_by_one_of_the_first_seeds(bug: str) -> None:
    assert catch(bug, range(_SEEDS)).seed is not None


def _crash(plan: Any) -> Any:
    """As a planted bug whose signature is that of an earlier `plan_start`."""

    def planted(committed: int, stored: int | None) -> Any:
        return plan(committed, stored)

    return planted


@pytest.mark.parametrize(
    ("kinds", "seed"),
    [(frozenset({"stuck", "lost", "committed_not_delivered"}), None), (frozenset({"crashed"}), 0)],
    ids=["meant to lose", "meant to crash"],
)
def test_a_planted_bug_that_only_crashes_is_caught_when_it_is_meant_to(
    monkeypatch: pytest.MonkeyPatch, kinds: frozenset[str], seed: int | None
) -> None:
    monkeypatch.setattr(sim_world, "_DRAIN_SECONDS", 1.0)
    monkeypatch.setitem(PLANTED, "stale", Planted(replacing(intake, "plan_start", _crash), kinds))
    caught = catch("stale", range(1))
    assert (caught.seed, "TypeError" in caught.violation) == (seed, seed is not None)


def test_a_planted_bug_that_breaks_something_else_is_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PLANTED["checkpoint before its rows are acknowledged"]
    monkeypatch.setitem(PLANTED, "same", real)
    monkeypatch.setitem(PLANTED, "other", replace(real, kinds=frozenset({"letter_missing"})))
    assert [catch(bug, range(3)).seed is not None for bug in ("same", "other")] == [True, False]


def test_no_planted_bug_is_meant_to_crash() -> None:
    assert [bug for bug, planted in PLANTED.items() if not planted.kinds or CRASHED in planted.kinds] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_seed_of_a_thousand_breaks_a_promise() -> None:
    assert _broken(list(run_seeds(range(1000)))) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_seeds_give_the_same_traces_twice() -> None:
    first, second = ([outcome.digest for outcome in run_seeds(range(100))] for _ in range(2))
    assert first == second


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_planted_bug_is_caught_within_a_thousand_seeds() -> None:
    caught = {one.bug: one.seed for one in run_planted(1000)}
    assert [bug for bug, seed in caught.items() if seed is None] == []
    assert len(caught) == len(PLANTED) >= 8
