"""One family of towers through the timeline: set-up, replay, and the figures of every design."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.complete_journey import Journey
from datasets.weeks import week_start_ms
from evaluation.recall import bootstrap_interval
from streams.worker_settings import WorkerSettings

from .freshness_skew_answers import Answers, Asking, Mixes
from .freshness_skew_baselines import AliasSwap, HourlyUnion, IndexInCheckpoint
from .freshness_skew_clock import HOUR_MS, MINUTE_MS, WEEK_MS, Measured, Settings, Timeline
from .freshness_skew_designs import Common, Design, Offline, Released
from .freshness_skew_ours import Product, Took, timing
from .freshness_skew_replay import Replay, TowerTables
from .freshness_skew_rows import Shown
from .freshness_skew_stream import Queries, Stream
from .freshness_skew_towers import Tower

OFFLINE, OURS, OURS_NO_DELTA = "offline", "skewless", "skewless, no delta"
CHECKPOINT, UNION, ALIAS = "index in checkpoint", "hourly union", "alias swap"
_SAMPLE = 200


@dataclass(frozen=True)
class Plan:
    """Weeks of the timeline, rollovers in it, and how many baskets are judged."""

    first_week: int
    last_week: int
    rollouts: int
    judged: int

    def timeline(self, measured: Measured) -> Timeline:
        """Checkpoints are ready half-way between two Mondays, so a Monday's burst waits the average time."""
        ready = tuple(week_start_ms(self.first_week + one) + WEEK_MS // 2 for one in range(self.rollouts))
        return Timeline(week_start_ms(self.first_week), week_start_ms(self.last_week + 1), ready, measured)


@dataclass(frozen=True)
class Shared:
    """What both families have in common."""

    journey: Journey
    plan: Plan
    queries: Queries
    root: Path
    say: Callable[[str], None]

    def near(self, ready_ms: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Baskets from an hour before a checkpoint to three hours after it."""
        after = self.queries.at_ms[:, None] - np.array(ready_ms)
        near: npt.NDArray[np.bool_] = ((after >= -HOUR_MS) & (after < 3 * HOUR_MS)).any(axis=1)
        return near


def run_family(shared: Shared, name: str, towers: list[Tower]) -> dict[str, Any]:
    """Replay the timeline with these towers; the figures of every design and of the product's own run."""
    shared.say(f"{name}: load the stream")
    stream = Stream(shared.journey, shared.plan.first_week, shared.plan.last_week)
    tables = TowerTables(stream, towers)
    product = Product(shared.root / name.replace(" ", "-"), towers, stream.titles.to_list())
    measured = _warm_up(stream, tables, product)
    timeline = shared.plan.timeline(measured)
    near = shared.near(timeline.ready_ms)
    chosen = np.random.default_rng(0).choice(len(near), min(shared.plan.judged, len(near)), replace=False)
    judged_rows = np.union1d(chosen, np.flatnonzero(near)).astype(np.intp)
    judged = shared.queries.subset(judged_rows)
    examples = judged.examples
    asking = Asking(
        judged,
        np.stack([tower.query.embed(examples.users, examples.contexts) for tower in towers]),
        [tower.query.calibration for tower in towers],
        stream.pin_ids,
    )

    def shown() -> Shown:
        return Shown(len(stream.pin_ids), tables.all(0))

    ours = Released(OURS, timeline, shown())
    union = HourlyUnion(UNION, timeline, shown())
    designs: list[Design] = [
        Offline(OFFLINE, timeline, shown()),
        ours,
        Released(OURS_NO_DELTA, timeline, shown(), delta=False),
        IndexInCheckpoint(CHECKPOINT, timeline, shown()),
        union,
        AliasSwap(ALIAS, timeline, shown()),
    ]
    replay = Replay(
        stream,
        timeline,
        towers,
        tables,
        designs,
        _clock_designs(timeline, len(stream.pin_ids)),
        ours,
        union,
        product,
        asking,
        shared.queries,
        near,
        lambda text: shared.say(f"{name}: {text}"),
    )
    replay.run()
    sample = np.flatnonzero(np.isin(judged_rows, chosen)).astype(np.intp)
    around = np.flatnonzero(near[judged_rows]).astype(np.intp)
    others = np.flatnonzero(~near[judged_rows]).astype(np.intp)
    return _figures(replay, sample, around, others) | {"measured_ms": asdict(measured)}


def _warm_up(stream: Stream, tables: TowerTables, product: Product) -> Measured:
    """Measure what the schedule needs, on the opening states, and make the first release."""
    everything = np.arange(len(stream.pin_ids), dtype=np.intp)
    product.live([0])
    backfill, batch = Took(), Took()
    with timing(backfill):
        embedded = tables.embed_all(0)
        product.embedded(0, stream.records, everything, embedded)
    for _ in range(3):
        product.release(0, stream.start_ms)
        some = everything[:: len(everything) // _SAMPLE]
        with timing(batch):
            tables.update(some, [0])
            product.embedded(0, stream.records[some], some, tables.last[0])
        first = Shown(len(everything), tables.all(0))
        product.check(first)
        product.shard(first, everything[::24], stream.records, stream.start_ms)
    poll_ms = round(1000 * WorkerSettings.poll_seconds)
    return Measured(
        enrich=poll_ms + batch.median_ms(),
        backfill=backfill.median_ms(),
        release=product.released.median_ms(),
        shard=product.sharded.median_ms(),
        refresh=product.refreshed.median_ms(),
    )


def _clock_designs(timeline: Timeline, pins: int) -> list[Design]:
    """The baselines with other settings; only whose version is where."""

    def other(**changed: int) -> Timeline:
        return replace(timeline, settings=replace(Settings(), **changed))

    def blank() -> Shown:
        return Shown(pins, None)

    return [
        HourlyUnion("hourly union, N = 6", other(union_hours=6), blank()),
        HourlyUnion("hourly union, N = 168", other(union_hours=168), blank()),
        AliasSwap("alias swap, clients roll in 10 min", other(client_roll_ms=10 * MINUTE_MS), blank()),
        AliasSwap("alias swap, clients roll in 24 h", other(client_roll_ms=24 * HOUR_MS), blank()),
    ]


def _figures(
    replay: Replay,
    sample: npt.NDArray[np.intp],
    around: npt.NDArray[np.intp],
    others: npt.NDArray[np.intp],
) -> dict[str, Any]:
    """Quality is of the random `sample`; mixed answers are counted in all of those `around` a rollover and
    estimated from the `others` that were drawn, each weighted by how many baskets it stands for.
    """
    reference = replay.answers[OFFLINE]
    weight = float(replay.near.mean())
    rows = {}
    for design in replay.designs:
        answers = replay.answers[design.name]
        rows[design.name] = (
            _clock_figures(replay, design)
            | _quality(answers, reference, sample)
            | {
                "answers_with_mixed_share": float(
                    weight * answers.mixed[around].mean() + (1 - weight) * answers.mixed[others].mean()
                ),
                "around_rollovers": _quality(answers, reference, around),
            }
        )
    return {
        "updates": len(replay.stream.arrivals_ms),
        "baskets": len(replay.queries),
        "judged_baskets": len(sample),
        "baskets_around_rollovers": int(replay.near.sum()),
        "pins": len(replay.stream.pin_ids),
        "designs": rows,
        "other_settings": {one.name: _clock_figures(replay, one) for one in replay.clocks},
        "product": {
            "releases_built": len(replay.product.released.wall),
            "rows_of_another_version_in_them": replay.product.foreign_rows,
            "checked_equal_to_release_and_delta": replay.product.checked,
            "release_seconds": _spread(replay.product.released),
            "delta_refresh_seconds": _spread(replay.product.refreshed),
            "update_batch_seconds": _spread(replay.tables.updates),
            "refuses_the_union": replay.refusal,
        },
    }


def _spread(took: Took) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(took.wall, q)) for q in (50, 99)}


def _clock_figures(replay: Replay, design: Design) -> dict[str, Any]:
    arrivals = replay.stream.arrivals_ms
    waits = (design.servable_ms(arrivals) - arrivals) / 1000
    mixes: Mixes = replay.mixes[design.name]
    return {
        "freshness_seconds": {f"p{q}": float(np.percentile(waits, q)) for q in (50, 99)},
        "mixed_pairs_share": mixes.all.mixed_share,
        "requests_scoring_mixed_share": mixes.all.mixed_request_share,
        "mixed_pairs_share_around_rollovers": mixes.near.mixed_share,
        "pairs": mixes.all.pairs,
        "pairs_by_lag": mixes.all.pairs_by_lag.tolist(),
        "cost": _cost(replay, design),
    }


def _cost(replay: Replay, design: Design) -> dict[str, float]:
    assert isinstance(design, Common)
    costs, tables, product = design.costs, replay.tables, replay.product
    per_update = sum(tables.updates.cpu) / max(tables.update_forwards, 1)
    per_bulk = tables.bulk.mean_cpu() / len(replay.stream.pin_ids)
    tower = costs.update_forwards * per_update + costs.bulk_forwards * per_bulk
    indexes = costs.releases * product.released.mean_cpu() + costs.shards * product.sharded.mean_cpu()
    per_million = 1e6 / len(replay.stream.arrivals_ms)
    return {
        "tower_forwards_per_million_updates": costs.forwards * per_million,
        "bulk_forwards_per_million_updates": costs.bulk_forwards * per_million,
        "dual_forwards_per_million_updates": costs.dual_forwards * per_million,
        "tower_cpu_seconds_per_million_updates": tower * per_million,
        "index_cpu_seconds_per_million_updates": indexes * per_million,
        "releases": costs.releases,
        "shards": costs.shards,
    }


def _quality(answers: Answers, reference: Answers, rows: npt.NDArray[np.intp]) -> dict[str, Any]:
    recalls = answers.recalls(rows)
    less = recalls - reference.recalls(rows)
    return {
        "baskets": len(rows),
        "recall_at_20": float(recalls.mean()),
        "recall_interval": bootstrap_interval(recalls, seed=0),
        "recall_minus_offline": float(less.mean()),
        "recall_minus_offline_interval": bootstrap_interval(less, seed=0),
        "judged_answers_with_mixed_share": float(answers.mixed[rows].mean()),
        "common_candidates": asdict(answers.common_calibration(rows)),
        "own_expected_over_observed": answers.own_calibration(rows).expected_over_observed,
    }
