"""`enforce` takes one tower version, whatever a manifest claims; `tolerate` takes any and labels it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from schemas.codec import encode
from schemas.errors import Refused
from schemas.logs import RankingLog
from schemas.ranking import RankRequest
from serving.answers import response_of
from serving.live_release import Assembly, LiveRelease
from serving.parts import ServingConfig, ServingParts, build_parts
from serving.ranking_log import recount_mixed
from serving.telemetry import ServingTelemetry

from .fakes import FakeIndex, fake_index, live, pins, version

TOWER, OLD = version("tower"), version("old")


def mixed_index(old_rows: int, *, claims: str = "tolerate", rows: int = 20) -> FakeIndex:
    """The first `old_rows` rows are tagged with another tower; the manifest says `claims`."""
    index = fake_index("mixed", TOWER, pins(rows))
    index.versions = [TOWER, OLD]
    index.version_code = (np.arange(rows) < old_rows).astype(np.uint8)
    index.manifest = index.manifest.model_copy(update={"version_policy": claims})
    return index


@pytest.fixture
def tolerant(assembly: Assembly) -> Assembly:
    return replace(assembly, version_policy="tolerate")


def test_enforce_refuses_mixed_rows_whose_metadata_cannot_show_them(assembly: Assembly) -> None:
    """Pain 3: one version in the manifest, two in the rows. The rows are what is counted."""
    index = mixed_index(7, claims="enforce")
    assert index.manifest.tower_version == index.tower_version == TOWER

    with pytest.raises(Refused) as refused:
        live(index, assembly)

    assert refused.value.code == "mixed_versions"
    assert f"13 rows of {TOWER[:12]}, 7 rows of {OLD[:12]}" in refused.value.came


def test_enforce_refuses_a_release_that_was_built_with_tolerate_though_its_rows_are_of_one_version(
    assembly: Assembly,
) -> None:
    with pytest.raises(Refused) as refused:
        live(mixed_index(0), assembly)

    assert refused.value.code == "mixed_versions"
    assert "`tolerate`" in refused.value.came
    assert "SKEWLESS_VERSION_POLICY" in refused.value.fix


def test_tolerate_serves_what_enforce_refuses_and_counts_its_rows(tolerant: Assembly) -> None:
    assert live(mixed_index(7), tolerant).version_mix == {TOWER: 13, OLD: 7}


def test_tolerate_takes_a_release_of_one_version_too(tolerant: Assembly) -> None:
    index = fake_index("pure", TOWER, pins(5))

    assert live(index, tolerant).manifest.version_policy == "enforce"


@pytest.fixture
def mixed_release(tolerant: Assembly) -> LiveRelease:
    return live(mixed_index(7), tolerant)


def test_every_answer_and_every_log_row_says_what_was_mixed(
    parts: ServingParts, mixed_release: LiveRelease, metrics: CollectorRegistry
) -> None:
    parts.handle.swap(mixed_release)
    ranked = parts.pipeline.rank(RankRequest(slots=3))
    parts.recorder.record(ranked)
    parts.recorder.ranking_log.close()
    answer = response_of(ranked)
    counted = metrics.get_sample_value

    # All 20 Pins are eligible and are retrieved; the 7 old ones have the highest scores.
    assert answer.version_policy == "tolerate"
    assert answer.version_mix == {TOWER: 13, OLD: 7}
    assert counted("skewless_mixed_version_pairs_total", {"version_policy": "tolerate"}) == 7
    assert counted("skewless_scored_pairs_total", {"version_policy": "tolerate"}) == 20
    assert counted("skewless_mixed_version_responses_total", {"version_policy": "tolerate"}) == 1
    assert counted("skewless_mixed_version_responses_total", {"version_policy": "enforce"}) == 0
    assert counted("skewless_mixed_version_pairs_total", {"version_policy": "enforce"}) == 0


def test_a_recount_of_the_log_finds_exactly_the_pairs_that_were_planted(
    parts: ServingParts, assembly: Assembly, tolerant: Assembly
) -> None:
    served = scored = 0
    for old_rows in (0, 2, 7, 20):
        parts.handle.swap(live(mixed_index(old_rows), tolerant))
        for slots in (1, 5):
            parts.recorder.record(parts.pipeline.rank(RankRequest(slots=slots)))
            # Scores fall by row and all bids are equal, so the first rows win.
            served, scored = served + min(slots, old_rows), scored + old_rows
    parts.handle.swap(live(fake_index("pure", TOWER, pins(20)), assembly))
    for _ in range(3):
        parts.recorder.record(parts.pipeline.rank(RankRequest(slots=4)))
    parts.recorder.ranking_log.close()

    counted = recount_mixed(parts.config.data / "logs")

    assert (counted.tolerate.mixed, counted.tolerate.mixed_scored) == (served, scored) == (15, 58)
    assert (counted.tolerate.responses, counted.tolerate.pairs, counted.tolerate.scored) == (8, 24, 160)
    assert (counted.enforce.responses, counted.enforce.pairs, counted.enforce.scored) == (3, 12, 60)
    assert (counted.enforce.mixed, counted.enforce.mixed_scored) == (0, 0)
    assert counted.kept


def test_pairs_that_were_only_scored_break_the_promise_too(tmp_path: Path) -> None:
    row = RankingLog(
        request_id="q",
        occurred_at_ms=1,
        served_at_ms=1,
        release_id="r",
        snapshot_id="s",
        registry_hash=version("registry"),
        query_tower_version=TOWER,
        version_mix={TOWER: 19, OLD: 1},
        query_vector="",
        duration_seconds=0.1,
        stages=[],
        ads=[],
    )
    (tmp_path / "ranking-000001.jsonl").write_bytes(encode(row) + b"\n")

    counted = recount_mixed(tmp_path)

    assert (counted.enforce.mixed, counted.enforce.mixed_scored, counted.kept) == (0, 1, False)


@pytest.mark.parametrize("policy", ["enforce", "tolerate"])
def test_status_and_metrics_say_which_policy_is_in_force(config: ServingConfig, policy: str) -> None:
    registry = CollectorRegistry()
    built = build_parts(replace(config, version_policy=policy, telemetry=ServingTelemetry(registry)))  # type: ignore[arg-type]
    built.close()

    assert built.status().version_policy == policy
    for name in ("enforce", "tolerate"):
        assert registry.get_sample_value("skewless_version_policy", {"version_policy": name}) == (
            name == policy
        )
