"""Snapshots in metrics: read from the manifests, so that a batch run that has ended is seen too."""

import os
from pathlib import Path

from prometheus_client import CollectorRegistry

from index.snapshots import write_snapshot
from schemas.manifests import SnapshotManifest
from schemas.statuses import CutterStatus
from streams.snapshot_telemetry import MOST_VERSIONS, SnapshotTelemetry
from tests.index.builders import FIRST_HOUR_MS, HOUR_MS, INPUTS, TOWER_A, TOWER_B, rows_of

NOW_SECONDS = 2_000_000_000.0


def cut(
    root: Path, tower: str, *, tier: str = "realtime", rows: int = 5, age_seconds: float = 60
) -> SnapshotManifest:
    manifest = write_snapshot(
        root / "snapshots",
        rows_of(rows, versions=(tower,)),
        tier=tier,
        hour_ms=FIRST_HOUR_MS - int(age_seconds) * HOUR_MS,
        clock="event",
        pin_inputs=INPUTS,
        offsets={},
        source="batch" if tier == "batch" else "stream",
    )
    finished = NOW_SECONDS - age_seconds
    os.utime(root / "snapshots" / manifest.snapshot_id / "READY", (finished, finished))
    return manifest


def registry_of(root: Path) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(SnapshotTelemetry(root / "snapshots", root / "status", lambda: NOW_SECONDS))
    return registry


def labels(tower: str, tier: str = "realtime", source: str = "stream") -> dict[str, str]:
    return {"tier": tier, "source": source, "version": tower[:12]}


def test_the_newest_snapshot_of_each_tier_and_tower_counts(tmp_path: Path) -> None:
    cut(tmp_path, TOWER_A, rows=5, age_seconds=7_200)
    cut(tmp_path, TOWER_A, rows=7, age_seconds=60)
    cut(tmp_path, TOWER_B, rows=3, age_seconds=30)
    newest = cut(tmp_path, TOWER_A, tier="batch", rows=9, age_seconds=86_400)
    value = registry_of(tmp_path).get_sample_value

    assert value("skewless_snapshot_rows", labels(TOWER_A)) == 7
    assert value("skewless_snapshot_rows", labels(TOWER_B)) == 3
    assert value("skewless_snapshot_age_seconds", labels(TOWER_A)) == 60
    assert value("skewless_snapshot_age_seconds", labels(TOWER_A, "batch", "batch")) == 86_400
    lag = value("skewless_snapshot_lag_seconds", labels(TOWER_A, "batch", "batch"))
    assert lag == NOW_SECONDS - newest.newest_ingest_ms / 1_000


def test_what_was_cut_of_a_batch_tier_while_it_was_a_realtime_one_is_left_out(tmp_path: Path) -> None:
    cut(tmp_path, TOWER_A, tier="slow", rows=5, age_seconds=90_000)
    cut(tmp_path, TOWER_A, rows=7, age_seconds=60)
    registry = CollectorRegistry()
    root = tmp_path / "snapshots"
    registry.register(SnapshotTelemetry(root, tmp_path / "status", lambda: NOW_SECONDS, {"slow"}))
    value = registry.get_sample_value
    assert value("skewless_snapshot_rows", labels(TOWER_A)) == 7
    assert value("skewless_snapshot_rows", labels(TOWER_A, "slow")) is None


def test_a_new_snapshot_is_seen_at_the_next_scrape_and_a_deleted_one_is_gone(tmp_path: Path) -> None:
    registry = registry_of(tmp_path)
    assert registry.get_sample_value("skewless_snapshot_rows", labels(TOWER_A)) is None
    manifest = cut(tmp_path, TOWER_A)
    assert registry.get_sample_value("skewless_snapshot_rows", labels(TOWER_A)) == 5
    (tmp_path / "snapshots" / manifest.snapshot_id / "READY").unlink()
    assert registry.get_sample_value("skewless_snapshot_rows", labels(TOWER_A)) is None


def test_a_damaged_snapshot_hides_no_other(tmp_path: Path) -> None:
    broken = cut(tmp_path, TOWER_B)
    cut(tmp_path, TOWER_A)
    (tmp_path / "snapshots" / broken.snapshot_id / "manifest.json").write_text("{}")
    value = registry_of(tmp_path).get_sample_value

    assert value("skewless_snapshot_rows", labels(TOWER_A)) == 5
    assert value("skewless_snapshot_rows", labels(TOWER_B)) is None


def test_towers_that_were_left_behind_do_not_pile_up(tmp_path: Path) -> None:
    for number in range(12):
        cut(tmp_path, f"{number:x}" * 64, age_seconds=1_000 - number)
    versions = {
        sample.labels["version"]
        for family in registry_of(tmp_path).collect()
        for sample in family.samples
        if family.name == "skewless_snapshot_rows"
    }

    assert versions == {f"{number:x}" * 12 for number in range(12 - MOST_VERSIONS, 12)}


def test_what_cutters_say_is_shown_and_a_torn_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    said = CutterStatus(
        tier="realtime", written_at_ms=0, started_at_ms=0, live=[], rows={}, lag_rows=12, last_hour_ms=None,
        missed_hours_ms=[1, 2], late_rows=3, snapshots=0, candidates={}, missed_hours=170, dead_letters=4,
    )  # fmt: skip
    (tmp_path / "status/cutter-realtime.json").write_text(said.model_dump_json())
    (tmp_path / "status/cutter-torn.json").write_text('{"tier"')
    value = registry_of(tmp_path).get_sample_value

    assert value("skewless_cutter_lag_rows", {"tier": "realtime"}) == 12
    assert value("skewless_cutter_missed_hours_total", {"tier": "realtime"}) == 170
    assert value("skewless_cutter_dead_letters_total", {"tier": "realtime"}) == 4
    assert value("skewless_cutter_late_rows_total", {"tier": "realtime"}) == 3


def test_the_status_of_an_older_cutter_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    said = CutterStatus(
        tier="realtime", written_at_ms=0, started_at_ms=0, live=[], rows={}, lag_rows=12, last_hour_ms=None,
        missed_hours_ms=[1, 2], late_rows=3, snapshots=0, candidates={},
    )  # fmt: skip
    text = said.model_dump_json(exclude={"missed_hours", "dead_letters"})
    (tmp_path / "status/cutter-realtime.json").write_text(text)
    value = registry_of(tmp_path).get_sample_value

    assert value("skewless_cutter_missed_hours_total", {"tier": "realtime"}) == 2
    assert value("skewless_cutter_dead_letters_total", {"tier": "realtime"}) == 0
