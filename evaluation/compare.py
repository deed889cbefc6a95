"""The towers beside the baselines: same later real baskets, same candidates."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.examples import Examples

from .baselines import Baseline, Ids
from .recall import bootstrap_interval, recall_at_k

Records = npt.NDArray[np.void]
Vectors = npt.NDArray[np.float32]

TOWERS = "two towers"
_QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Retrieved:
    """The `k` best Pins of each query by exact dot product, best first."""

    pin_ids: Ids
    dots: Vectors


def retrieve(
    embed_queries: Callable[[Records, Records], Vectors],
    embed_pins: Callable[[Records], Vectors],
    examples: Examples,
    states: Iterable[tuple[int, Records]],
    k: int,
) -> Retrieved:
    """Search all Pins for every query, each in its own period's state (`states`: period, all Pins)."""
    vectors = embed_queries(examples.users, examples.contexts)
    found = Retrieved(
        np.full((examples.queries, k), -1, np.int64), np.full((examples.queries, k), -np.inf, np.float32)
    )
    for period, records in states:
        here = np.flatnonzero(examples.query_period == period)
        if len(here) == 0:
            continue
        embedded = embed_pins(records)
        for start in range(0, len(here), _QUERIES_AT_ONCE):
            rows = here[start : start + _QUERIES_AT_ONCE]
            dots = vectors[rows] @ embedded.T
            some = np.argpartition(-dots, k - 1, axis=1)[:, :k]
            order = np.argsort(-np.take_along_axis(dots, some, axis=1), axis=1, kind="stable")
            best = np.take_along_axis(some, order, axis=1)
            found.pin_ids[rows] = records["pin_id"][best]
            found.dots[rows] = np.take_along_axis(dots, best, axis=1)
    return found


def baskets(examples: Examples) -> list[Ids]:
    """The Pin ids that each query was positive for."""
    edges = np.searchsorted(examples.pair_query, np.arange(1, examples.queries))
    return np.split(examples.pins["pin_id"][examples.pair_pin], edges)


@dataclass(frozen=True)
class Row:
    """Mean recall of one method, its interval, and how far the towers are above it (paired)."""

    name: str
    recall: float
    interval: tuple[float, float]
    towers_minus_this: float
    difference_interval: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Every method on the same baskets, best first."""

    k: int
    queries: int
    rows: tuple[Row, ...]

    def recall(self, name: str) -> float:
        """Mean recall@k of a method. Raises KeyError for one that is not here."""
        return {row.name: row.recall for row in self.rows}[name]

    def markdown(self) -> str:
        """The table, with 95 % bootstrap intervals over baskets."""
        lines = [
            f"| method | recall@{self.k} | 95 % | towers minus this | 95 % |",
            "|---|---|---|---|---|",
        ]
        for row in self.rows:
            low, high = row.interval
            below, above = row.difference_interval
            lines.append(
                f"| {row.name} | {row.recall:.4f} | {low:.4f} to {high:.4f} "
                f"| {row.towers_minus_this:+.4f} | {below:+.4f} to {above:+.4f} |"
            )
        return "\n".join(lines)


def compare(
    towers: Ids, examples: Examples, baselines: Iterable[Baseline], k: int = 20, seed: int = 0
) -> Comparison:
    """recall@k of the towers' retrieved Pins (Q, at least k) and of each baseline."""
    relevant = baskets(examples)
    own = recall_at_k(towers, relevant, k)
    methods = {TOWERS: own}
    for baseline in baselines:
        methods[baseline.name] = recall_at_k(baseline.top(examples.users, k), relevant, k)
    rows = [
        Row(
            name=name,
            recall=float(values.mean()),
            interval=bootstrap_interval(values, seed),
            towers_minus_this=float((own - values).mean()),
            difference_interval=bootstrap_interval(own - values, seed),
        )
        for name, values in methods.items()
    ]
    return Comparison(k, examples.queries, tuple(sorted(rows, key=lambda row: -row.recall)))
