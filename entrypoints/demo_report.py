"""The demo's figures: gathered from logs and metrics, printed, and given as one object."""

import math
from collections import Counter
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from datasets.weeks import LAST_WEEK
from schemas.ranking import RankRequest, RankResponse
from serving.ranking_log import recount_mixed
from skewless_client import RankClient

from .demo_queries import Answers
from .demo_world import DemoWorld, Replayed
from .settings import Settings

_SAMPLES = 3


def demo_figures(
    world: DemoWorld,
    settings: Settings,
    replayed: Replayed,
    answers: Answers,
    first_ad_s: float,
    laps: dict[str, float],
) -> dict[str, Any]:
    """Everything that the demo claims, each from where it was measured."""
    url = f"http://{settings.http_host}:{settings.http_port}"
    samples = _samples(world, url)
    status = world.status(url)
    recounted = recount_mixed(settings.logs_dir)
    towers = {name: world.training(name) or {} for name in ("A", "B")}
    name = "skewless_event_to_servable_seconds"
    freshness = since(histogram(world.metrics(url), name), histogram(world.metrics_before, name))
    served = [swap for swap in status["swaps"] if swap["result"] == "served"]
    milliseconds = np.array(answers.seconds or [math.nan]) * 1e3
    return {
        "first_ad_s": round(first_ad_s, 1),
        "events": replayed.events,
        "placement_changes": replayed.placement_changes,
        "coupon_changes": replayed.coupon_changes,
        "price_changes": replayed.prices,
        "visit_windows": replayed.aggregates,
        "catalogue": replayed.catalogue,
        "events_per_s": round((replayed.events - replayed.catalogue) / replayed.seconds),
        "freshness_p50_s": _rounded(quantile(freshness, 0.5)),
        "freshness_p99_s": _rounded(quantile(freshness, 0.99)),
        **_recalls(towers["B"]),
        "towers": towers,
        "queries": answers.answered,
        "failed_queries": answers.failed,
        "query_p50_ms": _rounded(float(np.quantile(milliseconds, 0.5))),
        "query_p99_ms": _rounded(float(np.quantile(milliseconds, 0.99))),
        "swaps": max(len(served) - 1, 0),
        "refused_releases": len(status["swaps"]) - len(served),
        "recounted_responses": recounted.responses,
        "recounted_pairs": recounted.pairs,
        "mixed_version_responses": recounted.mixed,
        "releases": [swap["release_id"] for swap in reversed(served)],
        "swap_history": [
            {name: swap[name] for name in ("release_id", "at_ms", "load_seconds", "freshness")}
            for swap in reversed(served)
        ],
        "time_went_into_s": laps,
        "samples": [one.model_dump(mode="json") for one in samples],
        "console": f"{url}/",
    }


def _samples(world: DemoWorld, url: str) -> list[RankResponse]:
    requests = world.queries(LAST_WEEK - 1)[:_SAMPLES]
    with RankClient(url, timeout_seconds=10) as client:
        return [client.rank(RankRequest(**{**one.model_dump(), "slots": 3})) for one in requests]


def _recalls(tower: dict[str, Any]) -> dict[str, float | None]:
    names = {
        "recall_at_20": "two_towers",
        "popularity_recall_at_20": "popularity",
        "itemknn_recall_at_20": "item_knn",
        "own_history_recall_at_20": "own_history",
    }
    recalls = tower.get("recalls", {})
    return {name: recalls.get(method) for name, method in names.items()}


def histogram(text: str, name: str) -> list[tuple[float, float]]:
    """(upper bound, cumulative count) of a Prometheus histogram, ascending; its series are added up."""
    counts: Counter[float] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{name}_bucket":
                counts[float(sample.labels["le"])] += sample.value  # type: ignore[assignment]
    return sorted(counts.items())


def since(after: list[tuple[float, float]], before: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What a histogram has counted between two readings."""
    counted = dict(before)
    return [(upper, count - counted.get(upper, 0.0)) for upper, count in after]


def quantile(buckets: list[tuple[float, float]], q: float) -> float:
    """Quantile of a histogram, linear inside its bucket, as Prometheus does; NaN when empty."""
    total = buckets[-1][1] if buckets else 0.0
    lower, below = 0.0, 0.0
    for upper, count in buckets:
        if total and count >= q * total:
            if math.isinf(upper) or count == below:
                return lower
            return lower + (upper - lower) * (q * total - below) / (count - below)
        lower, below = upper, count
    return math.nan


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)


def print_figures(figures: dict[str, Any], settings: Settings) -> None:
    """For people, on stderr: the claims, three sample requests, where to look next."""
    console = Console(stderr=True, highlight=False)
    table = Table(title="what was measured", title_justify="left", show_header=False, show_edge=False)
    for label, text in _lines(figures):
        table.add_row(label, text)
    console.print(table)
    for sample in figures["samples"]:
        console.print(_ads(sample))
    for line in where_to_look(figures["console"], settings):
        console.print(line)


def where_to_look(url: str, settings: Settings) -> list[str]:
    """Addresses of the running demo, and what to type for other commands to find it."""
    return [
        f"console     {url}",
        f"API         {url}openapi.json",
        f"metrics     {url}metrics",
        f"broker      {settings.kafka_bootstrap_servers}, while the demo runs "
        "(SKEWLESS_KAFKA_BOOTSTRAP_SERVERS of other commands)",
        f"next        SKEWLESS_DATA_DIR={settings.data_dir} skewless release list",
        f"            SKEWLESS_DATA_DIR={settings.data_dir} skewless recount",
    ]


def _lines(figures: dict[str, Any]) -> list[tuple[str, str]]:
    recalls = [figures[f"{name}recall_at_20"] for name in ("", "popularity_", "itemknn_", "own_history_")]
    towers, popularity, knn, own = (
        f"{value:.4f}" if value is not None else "not measured" for value in recalls
    )
    laps = ", ".join(f"{what} {seconds:g} s" for what, seconds in figures["time_went_into_s"].items())
    return [
        ("first ranked ad", f"{figures['first_ad_s']} s after the start"),
        ("events", f"{figures['events']:,} ({figures['placement_changes']:,} placement changes, "
                   f"{figures['coupon_changes']:,} coupon changes, all real)"),
        ("events/s", f"{figures['events_per_s']:,} into embeddings, everything else running beside"),
        ("event to servable", f"p50 {figures['freshness_p50_s']} s, p99 {figures['freshness_p99_s']} s"),
        ("recall@20", f"towers {towers}, popularity {popularity}, item-kNN {knn}, own history {own}"),
        ("queries", f"{figures['queries']:,} answered, {figures['failed_queries']} failed, "
                    f"p50 {figures['query_p50_ms']} ms, p99 {figures['query_p99_ms']} ms"),
        ("swaps", f"{figures['swaps']}, {figures['refused_releases']} releases refused"),
        ("mixed versions", f"{figures['mixed_version_responses']} of {figures['recounted_pairs']:,} pairs in "
                           f"{figures['recounted_responses']:,} responses, recounted from the ranking log"),
        ("time went into", laps),
    ]  # fmt: skip


def _ads(sample: dict[str, Any]) -> Table:
    table = Table(
        title=f"request {sample['request_id'][:8]}, release {sample['release_id']}, "
        f"tower {sample['query_tower_version'][:12]}",
        title_justify="left",
        show_edge=False,
    )
    for column in ("#", "Pin", "title", "score", "pctr", "bid", "price"):
        table.add_column(column)
    for ad in sample["ads"]:
        table.add_row(
            str(ad["position"]),
            str(ad["pin_id"]),
            ad["title"],
            f"{ad['score']:.4f}",
            f"{ad['pctr']:.4f}",
            f"{ad['bid_micros'] / 1e6:.4f}",
            f"{ad['price_micros'] / 1e6:.4f}",
        )
    return table
