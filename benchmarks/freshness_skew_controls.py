"""What tells whether the harness can be believed, and what a lag of versions alone does."""

from dataclasses import asdict
from typing import Any

import numpy as np

from datasets.complete_journey import Journey
from datasets.training_rows import PinStates
from evaluation.compare import retrieve
from evaluation.recall import bootstrap_interval, recall_at_k
from features.pin_state import Records
from models.predictor import QueryTower

from .freshness_skew_answers import CANDIDATES, RECALL_K, Answers, Asking
from .freshness_skew_clock import Timeline
from .freshness_skew_designs import Offline
from .freshness_skew_rows import Matrix, Shown, Slots
from .freshness_skew_stream import Queries
from .freshness_skew_towers import Tower


class _One:
    """`Tables` of one matrix, whichever version is asked for."""

    def __init__(self, vectors: Matrix) -> None:
        self._vectors = vectors

    def rows(self, version: int, slots: Slots) -> Matrix:
        return self._vectors[slots]


def _rounded(vectors: Matrix) -> Matrix:
    return vectors.astype(np.float16).astype(np.float32)


def offline_control(
    journey: Journey, queries: Queries, tower: Tower, weeks: tuple[int, int]
) -> dict[str, Any]:
    """One version, states of each week's start: the harness has to find what `evaluation.retrieve` finds."""
    events = list(journey.journey_events(*weeks))
    vectors = tower.query.embed(queries.examples.users, queries.examples.contexts)
    found = retrieve(
        lambda users, contexts: vectors,
        lambda pins: _rounded(tower.pin.embed(pins).vectors),
        queries.examples,
        PinStates(journey.product_ids).at_starts(events),
        CANDIDATES,
    )
    offline = recall_at_k(found.pin_ids, queries.bought, RECALL_K)

    pins = len(journey.product_ids)
    dimension = tower.pin.dimension
    design = Offline("lag 0", Timeline(0, 1, ()), Shown(pins, np.zeros((pins, dimension), np.float32)))
    asking = Asking(queries, vectors[None], [tower.query.calibration], journey.product_ids)
    answers = Answers(design, asking)
    for week, states in PinStates(journey.product_ids).at_starts(events):
        tables = _One(_rounded(tower.pin.embed(states).vectors))
        design.shown.write(design.shown.take(tables, design.all_slots, 0))
        answers.ask(np.flatnonzero(queries.examples.query_period == week))
        answers.flush()
    rows = np.arange(len(queries), dtype=np.intp)
    same_pins = bool((journey.product_ids[answers.found] == found.pin_ids).all())
    return {
        "baskets": len(queries),
        "offline_recall": float(offline.mean()),
        "harness_recall": float(answers.recalls(rows).mean()),
        "equal": same_pins and bool((answers.dots == found.dots).all()),
    }


def lag_sweep(queries: Queries, pins: Records, towers: list[Tower]) -> list[dict[str, Any]]:
    """The newest query tower against a whole index of each version, of the same Pin states.

    Every row also says how far recall is below lag 0, with a 95 % interval over baskets (paired).
    """
    newest = len(towers) - 1
    shown = Shown(len(pins), np.zeros((len(pins), towers[0].pin.dimension), np.float32))
    design = Offline("lag", Timeline(0, 1, ()), shown)
    rows = np.arange(len(queries), dtype=np.intp)
    vectors = towers[newest].query.embed(queries.examples.users, queries.examples.contexts)
    asking = Asking(queries, vectors[None], [towers[newest].query.calibration], pins["pin_id"].copy())
    own: Answers | None = None
    swept: list[dict[str, Any]] = []
    for lag in range(len(towers)):
        tables = _One(_rounded(towers[newest - lag].pin.embed(pins).vectors))
        design.shown.write(design.shown.take(tables, design.all_slots, 0))
        answers = Answers(design, asking, own)
        answers.ask(rows)
        answers.flush()
        own = own or answers
        recalls = answers.recalls(rows)
        less = recalls - own.recalls(rows)
        swept.append(
            {
                "lag": lag,
                "recall_at_20": float(recalls.mean()),
                "minus_lag_0": float(less.mean()),
                "minus_lag_0_interval": bootstrap_interval(less, seed=0),
                "common_candidates": asdict(answers.common_calibration(rows)),
            }
        )
    return swept


def positive_control(
    queries: Queries, pins: Records, tower: Tower, untrained: list[QueryTower]
) -> dict[str, Any]:
    """Query towers that have seen no data: recall has to collapse towards that of a random draw.

    NOTE: such a tower gives nearly the same vector to everybody, so each of them stands for one random
    direction, and some of those happen to point at Pins that are popular: hence several, and their mean.
    """
    vectors = _rounded(tower.pin.embed(pins).vectors)
    recalls = []
    for query in untrained:
        embedded = query.embed(queries.examples.users, queries.examples.contexts)
        design = Offline("unrelated", Timeline(0, 1, ()), Shown(len(pins), vectors))
        answers = Answers(design, Asking(queries, embedded[None], [tower.query.calibration], pins["pin_id"]))
        answers.ask(np.arange(len(queries), dtype=np.intp))
        answers.flush()
        recalls.append(float(answers.recalls(np.arange(len(queries), dtype=np.intp)).mean()))
    return {"recalls_at_20": recalls, "mean": float(np.mean(recalls)), "chance": RECALL_K / len(pins)}
