"""Freshness against version skew: four designs on one real update stream with really retrained towers.

`python -m benchmarks.freshness_skew [--quick] [--towers DIR]`. The Complete Journey's placements, prices,
coupons and visit windows arrive in event time while towers are retrained every week; baskets of the same
weeks are the queries. Every design sees the same rows by the same towers through the same exact search.
`value` is the number of mixed pairs that this system scored. A full run also draws
`docs/images/freshness_skew.png`; `--towers` keeps the trained towers for the next run.

What is measured here is laid onto event time: embedding, building, loading. The broker is not in it, for
any design. Times of training are not in it either: a checkpoint is ready when it is ready, for everybody.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.complete_journey import Journey
from datasets.training_rows import pins_at_start

from .freshness_skew_baselines import IndexInCheckpoint
from .freshness_skew_clock import Measured, Settings, Timeline
from .freshness_skew_controls import lag_sweep, offline_control, positive_control
from .freshness_skew_family import CHECKPOINT, OURS, UNION, Plan, Shared, run_family
from .freshness_skew_figure import draw, table
from .freshness_skew_rows import Shown
from .freshness_skew_stream import all_queries
from .freshness_skew_towers import Tower, Training, Workshop
from .report import report

FULL = Plan(first_week=37, last_week=40, rollouts=3, judged=4_000)
QUICK = Plan(first_week=37, last_week=37, rollouts=1, judged=300)
FULL_TRAINING, QUICK_TRAINING = Training(weeks=13, epochs=2), Training(weeks=2, epochs=1)
SWEPT_BASKETS, QUICK_SWEPT_BASKETS, UNRELATED_BASKETS = 1_000, 300, 150
UNTRAINED = tuple(range(101, 109))
DAY_MS = 86_400_000


def main(arguments: list[str]) -> int:
    """Run it, print the table, keep the result; 1 when the product mixed anything or a control failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freshness_skew", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within a minute: one week, small towers")
    parser.add_argument("--towers", type=Path, help="keep trained towers here (default: a temporary one)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="skewless-freshness-") as scratch:
        root = options.towers or Path(scratch) / "trained"
        root.mkdir(parents=True, exist_ok=True)
        details = compare(Path(scratch), root, quick=options.quick)
    sys.stderr.write(table(details) + "\n")
    # The result file quotes the command; a directory of this machine has no business in it.
    sys.argv[1:] = ["--quick"] if options.quick else []
    if not options.quick:
        draw(details)
    ours = [family["designs"][OURS] for family in details["families"].values()]
    mixed = sum(sum(one["pairs_by_lag"][1:]) for one in ours)
    mixed += sum(one["product"]["rows_of_another_version_in_them"] for one in details["families"].values())
    ok = mixed == 0 and _controls_hold(details)
    return report("freshness_skew", mixed, "mixed pairs scored", 0, ok, details, quick=options.quick)


def compare(scratch: Path, root: Path, *, quick: bool) -> dict[str, Any]:
    """Everything that the result file holds."""
    say = _Speaker()
    plan, training = (QUICK, QUICK_TRAINING) if quick else (FULL, FULL_TRAINING)
    journey = Journey.installed()
    workshop = Workshop(journey, root, training, say)
    families = {"same start": [workshop.tower(plan.first_week - 2 + k, 0) for k in range(plan.rollouts + 1)]}
    if not quick:
        families["new start"] = [workshop.tower(plan.first_week - 2 + k, k) for k in range(plan.rollouts + 1)]
    say("load the baskets")
    queries = all_queries(journey, plan.first_week, plan.last_week)
    shared = Shared(journey, plan, queries, scratch, say)
    details: dict[str, Any] = {
        "data": "The Complete Journey: real changes and baskets; minutes within the log's resolution by hash",
        "weeks": [plan.first_week, plan.last_week],
        "rollovers": plan.rollouts,
        "training_weeks": training.weeks,
        "settings": asdict(Settings()),
        "towers": {name: [_about(tower) for tower in towers] for name, towers in families.items()},
        "families": {name: run_family(shared, name, towers) for name, towers in families.items()},
    }
    say("controls")
    details["checkpoints_every_day"] = _daily_checkpoints(details, plan)
    return details | _controls(shared, workshop, families, QUICK_SWEPT_BASKETS if quick else SWEPT_BASKETS)


def _about(tower: Tower) -> dict[str, Any]:
    return {
        "tower_version": tower.version,
        "data_until_week": tower.last_week,
        "seed": tower.seed,
        "training_seconds": tower.training_seconds,
        "calibration": tower.query.calibration.model_dump(),
    }


def _controls(
    shared: Shared, workshop: Workshop, families: dict[str, list[Tower]], baskets: int
) -> dict[str, Any]:
    plan, queries = shared.plan, shared.queries
    last = np.flatnonzero(queries.examples.query_period == plan.last_week)
    swept = queries.subset(_some(last, baskets))
    pins = pins_at_start(shared.journey, plan.last_week)
    some = queries.subset(np.arange(0, len(queries), 10, dtype=np.intp))
    newest = families["same start"][-1]
    return {
        "by_lag": {name: lag_sweep(swept, pins, towers) for name, towers in families.items()},
        "lag_0_equals_offline": offline_control(
            shared.journey, some, newest, (plan.first_week, plan.last_week)
        ),
        "unrelated_queries": positive_control(
            queries.subset(_some(last, UNRELATED_BASKETS)),
            pins,
            newest,
            [workshop.untrained(seed) for seed in UNTRAINED],
        ),
    }


def _some(rows: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    """About `count` of the rows, evenly spread."""
    return rows[:: max(len(rows) // count, 1)]


def _daily_checkpoints(details: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """What the checkpointed index would wait and cost if it were embedded anew each day, not each week.

    Only its clock: no tower was trained for it.
    """
    family = details["families"]["same start"]
    weekly = plan.timeline(Measured(**family["measured_ms"]))
    ready = tuple(range(weekly.start_ms + DAY_MS // 2, weekly.end_ms, DAY_MS))
    daily = Timeline(weekly.start_ms, weekly.end_ms, ready, weekly.measured)
    arrivals = np.arange(weekly.start_ms, ready[-1], 60_000, dtype=np.int64)
    design = IndexInCheckpoint(CHECKPOINT, daily, Shown(1, None))
    waits = (design.servable_ms(arrivals) - arrivals) / 1000
    return {
        "freshness_seconds": {f"p{q}": float(np.percentile(waits, q)) for q in (50, 99)},
        "tower_forwards_per_million_updates": 1e6 * len(ready) * family["pins"] / family["updates"],
    }


def _controls_hold(details: dict[str, Any]) -> bool:
    """The harness is right, the gates hold, and skew shows where it must."""
    families = details["families"].values()
    unrelated = details["unrelated_queries"]["mean"]
    return bool(
        details["lag_0_equals_offline"]["equal"]
        and unrelated < 0.2 * details["lag_0_equals_offline"]["offline_recall"]
        and all(family["designs"][UNION]["mixed_pairs_share"] > 0 for family in families)
        and all((family["product"]["refuses_the_union"] or {}).get("code") for family in families)
    )


class _Speaker:
    """Says on stderr what is being done, and when."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - self._started:5.0f} s] {text}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
