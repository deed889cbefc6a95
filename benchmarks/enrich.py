"""End-to-end enrichment rate: our worker against the same job in other frameworks, same broker and bytes.

`python -m benchmarks.enrich [--quick]`. KAFKA_HOME names a Kafka distribution; without it the embedded
broker is used. `make peers` makes the peers' environments. Rates come from the groups' committed offsets,
read from outside of the processes.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.enrich_runs import Rate, Runs
from benchmarks.enrich_stages import isolation, stages
from benchmarks.enrich_workload import (
    SEED,
    WARM_UP_TOPIC,
    Broker,
    Events,
    Workload,
    broker,
    events,
    fits,
    publish,
    warm_up,
)
from benchmarks.peers.tower_numpy import LAYOUT
from benchmarks.report import report
from features.definitions import registry
from features.registry import Entity
from features.registry import Path as FeaturePath
from models.checkpoint import CheckpointNotes, save_checkpoint
from models.towers import TowerConfig, fresh_towers

BARS = {"updates_per_second": 100_000, "times_documented": 6.0, "times_fastest": 1.5, "of_roofline": 0.6}
BAR_POISON_COST = 0.1
DOCUMENTED = ("faust-table", "quix-docs")
FASTEST = ("faust-memory", "quix-buffer", "bytewax-batch")

MEANING = {
    "scenarios": "by workload and run: events a second between the group's first and last commit; "
    "`ours-N` is the enrichment worker in N processes, a peer runs in one",
    "updates_per_second": "ours, the better of one and two processes, base64 vectors, no bad event",
    "times_documented": "ours in one process over the faster of the peers written as their documentation "
    "teaches, with keyed state",
    "times_fastest": "ours in one process over the fastest form of any peer, batched by hand, whatever it "
    "leaves out (see `forms`)",
    "of_roofline": "ours in one process over the slowest of its own stages run alone",
    "poison_cost": "by spelling: share of the clean rate that 1 % of bad events costs, one process: the "
    "median of `poison_pairs`, events a second of a clean run and of a bad one right after it",
    "stages_alone": "events a second of each stage alone; consume and produce with the broker",
    "isolation": "by spelling: milliseconds to decode 8,192 events that are clean, hold one bad one or 1 %",
}
FORMS = {
    "ours": "RocksDB state with positions in the same write, state topic, dead letters, commit after "
    "acknowledgement",
    "faust-table": "as documented: faust.Record, table in memory with a changelog topic, stream.take(1024)",
    "faust-memory": "raw bytes, state in a dict that a restart loses, stream.take(16384)",
    "quix-docs": "as documented: JSON topics, keyed state in RocksDB with a changelog, one event at a time",
    "quix-buffer": "a list filled by hand, 16,384 a forward; no state; a crash loses events",
    "bytewax-batch": "flat_map_batch, 8,192 of a partition a forward, state in a dict that a restart loses",
    "tower": "peers run the same weights in numpy, with less work than ours: inputs that the events never "
    "set are summed up once",
    "bad events": "only ours is run on them: the peers have no dead letters",
}


@dataclass(frozen=True)
class Scenario:
    """A workload, how many events of it, and who works on it."""

    name: str
    workload: Workload
    runs: tuple[str, ...]
    count: int = 600_000
    pairs: int = 0
    """For bad events: so many times over, each beside a run of clean ones, because machines are noisy."""


_OURS = ("ours-1",)
SCENARIOS = (
    Scenario("base64", Workload(), ("ours-1", "ours-2", *DOCUMENTED, *FASTEST)),
    Scenario("array", Workload("array"), ("ours-1", "ours-2", "quix-buffer", "bytewax-batch")),
    Scenario("base64, 1 % bad", Workload(poison_every=100), _OURS, pairs=3),
    Scenario("array, 1 % bad", Workload("array", poison_every=100), _OURS, pairs=3),
    Scenario("1 partition", Workload(partitions=1), _OURS, 300_000),
    Scenario("8 partitions", Workload(partitions=8), _OURS, 300_000),
    Scenario("0.3 KB, no vector", Workload("none", bytes=300), _OURS, 300_000),
    Scenario("1 KB", Workload(bytes=1000), (*_OURS, "quix-buffer"), 200_000),
    Scenario("4 KB", Workload(bytes=4000), (*_OURS, "quix-buffer"), 100_000),
)
QUICK = (Scenario("base64", Workload(), ("ours-1", "ours-2", "quix-buffer"), 100_000),)


@dataclass
class _Results:
    rates: dict[str, dict[str, Rate]] = field(default_factory=dict)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)
    isolation: dict[str, dict[str, float]] = field(default_factory=dict)
    poison: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    broker: str = ""


def main() -> int:
    """Measure, print, exit with 1 below a bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within 60 s, writes no result file")
    parser.add_argument(
        "--scenario",
        action="append",
        choices=[one.name for one in SCENARIOS],
        help="only this one of the full run (may be repeated)",
    )
    arguments = parser.parse_args()
    chosen: tuple[Scenario, ...] = QUICK if arguments.quick else SCENARIOS
    if arguments.scenario:
        chosen = tuple(one for one in SCENARIOS if one.name in arguments.scenario)
    results = _Results()
    for scenario in chosen:
        print(f"{scenario.name} …", file=sys.stderr, flush=True)
        if scenario.pairs:
            _measure_pairs(scenario, results)
        else:
            _measure(scenario, results, quick=arguments.quick)
    return _report(results, quick=arguments.quick or bool(arguments.scenario))


@dataclass(frozen=True)
class _Published:
    """A broker with the events on it, and a tower."""

    place: Broker
    data: Path
    version: str
    made: Events

    def runs(self, workload: Workload, limit_seconds: float = 30.0) -> Runs:
        return Runs(self.place, self.data, self.version, len(self.made), workload.partitions, limit_seconds)


@contextmanager
def _published(workload: Workload, count: int, *, warm: bool) -> Iterator[_Published]:
    size = len(events(1, workload)[0][1])
    made = events(fits(count, size, workload.partitions), workload)
    extra = {"bench-faust-table-pins-changelog": workload.partitions, WARM_UP_TOPIC: workload.partitions}
    with tempfile.TemporaryDirectory() as folder, broker(workload.partitions, extra) as place:
        data = Path(folder)
        version = random_tower(data / "towers")
        if place.kind == "Kafka" and warm:
            warm_up(place.settings, made)
        publish(place.settings, made)
        yield _Published(place, data, version, made)


def _measure(scenario: Scenario, results: _Results, *, quick: bool) -> None:
    workload = scenario.workload
    with _published(workload, scenario.count, warm=not quick) as published:
        place, made = published.place, published.made
        if not results.alone:
            results.alone = stages(place.settings, made, published.data, published.version)
        if workload.bytes == 0 and workload.spelling not in results.isolation:
            results.isolation[workload.spelling] = isolation(made)
        runs = published.runs(workload, 5.0 if quick else 30.0)
        rates = {}
        for name in scenario.runs:
            rates[name] = runs.rate(name)
            print(f"{scenario.name}: {name}: {rates[name].figures()}", file=sys.stderr, flush=True)
        results.rates[scenario.name] = rates
        results.broker = place.kind
    results.notes[scenario.name] = {
        "events": len(made),
        "event_bytes": len(made[0][1]),
        "partitions": workload.partitions,
    }


def _measure_pairs(scenario: Scenario, results: _Results) -> None:
    """Clean and bad in turns, each on a broker of its own."""
    bad = scenario.workload
    pairs = results.poison.setdefault(bad.spelling, [])
    for _ in range(scenario.pairs):
        pair = {}
        for name, workload in (("clean", replace(bad, poison_every=None)), ("bad", bad)):
            with _published(workload, scenario.count, warm=True) as published:
                rate = published.runs(workload).rate("ours-1")
            pair[name] = round(rate.events_per_second)
        print(f"{scenario.name}: {pair}", file=sys.stderr, flush=True)
        pairs.append(pair)


def _report(results: _Results, *, quick: bool) -> int:
    reached = _reached(results)
    ok = all(value is not None and value >= BARS[name] for name, value in reached.items())
    poison = {spelling: _poison_cost(pairs) for spelling, pairs in results.poison.items()}
    ok = ok and all(cost <= BAR_POISON_COST for cost in poison.values())
    details: dict[str, Any] = {
        "broker": results.broker,
        "scenarios": {
            name: results.notes[name] | {run: rate.figures() for run, rate in rates.items()}
            for name, rates in results.rates.items()
        },
        "bars": {name: {"value": reached.get(name), "bar": bar} for name, bar in BARS.items()}
        | {"poison_cost": {"value": poison, "bar": BAR_POISON_COST}},
        "stages_alone": {name: round(rate) for name, rate in results.alone.items()},
        "isolation": results.isolation,
        "poison_pairs": results.poison,
        "forms": FORMS,
        "meaning": MEANING,
    }
    value = reached["times_documented"] or reached["times_fastest"] or 0.0
    return report("enrich", value, "x", BARS["times_documented"], ok, details, quick=quick)


def _reached(results: _Results) -> dict[str, float | None]:
    """Each bar's figure; None where what it needs was not measured."""
    plain = {name: rate.events_per_second for name, rate in results.rates.get("base64", {}).items()}
    ours = plain.get("ours-1", 0.0)

    def times(peers: tuple[str, ...]) -> float | None:
        best = max((plain.get(name, 0.0) for name in peers), default=0.0)
        return round(ours / best, 2) if best else None

    return {
        "updates_per_second": round(max(ours, plain.get("ours-2", 0.0))) or None,
        "times_documented": times(DOCUMENTED),
        "times_fastest": times(FASTEST),
        "of_roofline": round(ours / min(results.alone.values()), 3) if ours else None,
    }


def _poison_cost(pairs: list[dict[str, int]]) -> float:
    return round(median(1 - pair["bad"] / pair["clean"] if pair["clean"] else 1.0 for pair in pairs), 3)


def random_tower(root: Path) -> str:
    """A tower of the real size with random weights: its speed does not depend on what it has learnt.

    Beside it goes the layout of its inputs, for the peers' numpy forward.
    """
    model = fresh_towers(registry(), TowerConfig(), SEED)
    notes = CheckpointNotes(registry().content_hash, trained_from_ms=0, trained_until_ms=0, seed=SEED)
    version = save_checkpoint(root, model, notes).tower_version
    specs = registry().on_path(FeaturePath.L1_EMBEDDING, Entity.PIN)
    layout = [(spec.name, spec.shape[0] if spec.shape else 1, spec.buckets) for spec in specs]
    (root / LAYOUT).write_text(json.dumps(layout))
    return version


if __name__ == "__main__":
    sys.exit(main())
