"""What is served, in metrics: each tier apart, counted from the rows, with labels that stay bounded."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from features.tier_slices import tier_codes
from index.delta_fold import Base
from schemas.manifests import TierPart
from schemas.tiers import Tier, Tiers
from serving.live_release import Assembly, LiveRelease
from serving.telemetry import ServingTelemetry
from serving.tier_facts import Before, tier_facts

from .fakes import HOUR_MS, NOON_MS, fake_index, live, pins, version

TOWER, OLD, OLDER = version("tower"), version("old"), version("older")
TIERS = Tiers(
    tiers=[
        Tier(name="fast", policy="realtime", first_bucket=0, end_bucket=50),
        Tier(name="slow", policy="batch", first_bucket=50, end_bucket=100),
    ]
)
ROWS = 40
IS_SLOW = tier_codes(np.arange(100, 100 + ROWS), TIERS) == 1
SLOW = int(IS_SLOW.sum())
FAST = ROWS - SLOW


def part(policy: str, hours_old: int, rows: int, versions: dict[str, int]) -> TierPart:
    newest_ms = NOON_MS - hours_old * HOUR_MS
    return TierPart.model_validate(
        {
            "policy": policy,
            "snapshot_id": f"snapshot-{policy}-{hours_old}",
            "hour_ms": newest_ms,
            "rows": rows,
            "versions": versions,
            "offsets": {},
            "newest_event_ms": newest_ms,
            "newest_ingest_ms": newest_ms,
        }
    )


@pytest.fixture
def two_tiers(assembly: Assembly) -> LiveRelease:
    """A fast tier, an hour old, and a slow one of an older tower, a day old; its manifest hides that."""
    index = fake_index(
        "r", TOWER, pins(ROWS, ingested_at_ms=np.where(IS_SLOW, NOON_MS - 24 * HOUR_MS, NOON_MS - HOUR_MS))
    )
    index.versions, index.version_code = [TOWER, OLD], IS_SLOW.astype(np.uint8)
    index.manifest = index.manifest.model_copy(
        update={
            "version_policy": "tolerate",
            "newest_ingest_ms": NOON_MS - HOUR_MS,
            # NOTE: the manifest claims one version everywhere; the rows know better.
            "tiers": {
                "fast": part("realtime", 1, FAST, {TOWER: FAST}),
                "slow": part("batch", 24, SLOW, {TOWER: SLOW}),
            },
        }
    )
    return live(index, replace(assembly, version_policy="tolerate"))


Value = Callable[..., float | None]


@pytest.fixture
def shown(two_tiers: LiveRelease) -> Value:
    registry = CollectorRegistry()
    telemetry = ServingTelemetry(registry)
    before = Before(
        NOON_MS, [OLDER, OLD, TOWER], TIERS, held_tiers=["fast", "slow"], held=Base.of(pins(0), TOWER)
    )
    telemetry.served(two_tiers, tier_facts(two_tiers, before))
    telemetry.exposition(two_tiers, NOON_MS)
    return lambda name, **labels: registry.get_sample_value(name, labels)


def test_versions_are_counted_from_the_rows_of_each_tier_and_not_from_the_manifest(shown: Value) -> None:
    """Pain 3: an index whose metadata cannot show that it is mixed. The metric shows it."""
    assert FAST > 0 < SLOW
    assert shown("skewless_index_embeddings", tier="fast", version=TOWER[:12]) == FAST
    assert shown("skewless_index_embeddings", tier="slow", version=OLD[:12]) == SLOW
    assert shown("skewless_index_embeddings", tier="slow", version=TOWER[:12]) is None
    assert shown("skewless_index_aligned_ratio", tier="fast") == 1
    assert shown("skewless_index_aligned_ratio", tier="slow") == 0


def test_rows_are_counted_by_how_many_versions_they_are_behind(shown: Value) -> None:
    assert shown("skewless_index_lag_rows", tier="fast", versions_behind="0") == FAST
    assert shown("skewless_index_lag_rows", tier="slow", versions_behind="1") == SLOW
    for lag in ("0", "2", "3+", "unknown"):
        assert shown("skewless_index_lag_rows", tier="slow", versions_behind=lag) == 0


def test_a_tier_that_is_old_is_seen_to_be_old_though_the_release_is_fresh(shown: Value) -> None:
    """Pain 7: expired values served as fresh. Each tier's age stands beside the release's."""
    assert shown("skewless_release_age_seconds") == 3_600
    assert shown("skewless_tier_lag_seconds", tier="fast", policy="realtime") == 3_600
    assert shown("skewless_tier_lag_seconds", tier="slow", policy="batch") == 86_400


def test_event_to_servable_is_by_tier(shown: Value) -> None:
    for tier, rows, seconds in (("fast", FAST, 3_600), ("slow", SLOW, 86_400)):
        labels = {"tier": tier, "path": "release"}
        assert shown("skewless_event_to_servable_seconds_count", **labels) == rows
        assert shown("skewless_event_to_servable_seconds_sum", **labels) == rows * seconds


def test_what_becomes_servable_by_the_delta_is_a_path_of_its_own() -> None:
    registry = CollectorRegistry()
    ServingTelemetry(registry).release.servable("delta", {"fast": [0.5, 2.5]})

    value = registry.get_sample_value
    by_delta = {"tier": "fast", "path": "delta"}
    assert value("skewless_event_to_servable_seconds_bucket", by_delta | {"le": "1.0"}) == 1
    assert value("skewless_event_to_servable_seconds_count", by_delta) == 2


def test_going_back_to_older_events_counts_as_a_rollback(assembly: Assembly) -> None:
    registry = CollectorRegistry()
    telemetry = ServingTelemetry(registry)
    for newest_ms in (NOON_MS - HOUR_MS, NOON_MS, NOON_MS - HOUR_MS, NOON_MS):
        release = live(fake_index("r", TOWER, pins(4), newest_ms=newest_ms), assembly)
        telemetry.served(release, tier_facts(release, Before(NOON_MS)))

    assert registry.get_sample_value("skewless_release_rollbacks_total") == 1


def test_a_thousand_swaps_of_distinct_versions_leave_as_many_series_as_the_first(assembly: Assembly) -> None:
    registry = CollectorRegistry()
    telemetry = ServingTelemetry(registry)
    tolerant = replace(assembly, version_policy="tolerate")
    order: list[str] = []

    def swap(number: int) -> int:
        tower = version(f"tower {number}")
        order.append(tower)
        index = fake_index(f"release-{number}", tower, pins(20))
        index.versions = [tower, *(version(f"old {number} {n}") for n in range(12))]
        index.version_code = (np.arange(20) % 13).astype(np.uint8)
        release = live(index, tolerant)
        telemetry.served(release, tier_facts(release, Before(NOON_MS, order)))
        telemetry.exposition(release, NOON_MS)
        return sum(len(family.samples) for family in registry.collect())

    first = swap(0)
    last = [swap(number) for number in range(1, 1_000)][-1]

    assert last == first
    versions = {
        sample.labels["version"]
        for family in registry.collect()
        for sample in family.samples
        if family.name == "skewless_index_embeddings"
    }
    assert len(versions) == 9
    assert "other" in versions
