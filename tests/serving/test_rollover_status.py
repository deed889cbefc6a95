"""A rollover, read from the files that other processes write."""

from pathlib import Path

from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from schemas.rollovers import Rollover
from schemas.statuses import CandidateStatus, CutterStatus, EmbedStatus
from serving.rollover_status import read_rollover
from serving.telemetry import ServingTelemetry

from .fakes import NOON_MS, version

SERVING, CANDIDATE = version("serving"), version("candidate")


def write(path: Path, document: BaseModel) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document.model_dump_json())


def begin(data: Path) -> None:
    record = Rollover(
        candidate=CANDIDATE, serving=SERVING, started_ms=NOON_MS - 60_000, actor="somebody", reason="",
        manual=False, kept_snapshots=[], kept_releases=[], kept_runs=[], baseline={},
    )  # fmt: skip
    write(data / "towers/ROLLOVER.json", record)


def cutter(data: Path, tier: str, covered: float, blocked: str = "") -> None:
    candidate = CandidateStatus(
        pins=1, of=1, covered=covered, behind=0, missing_pins=[], ready=not blocked, blocked=blocked,
        partitions={},
    )  # fmt: skip
    said = CutterStatus(
        tier=tier, written_at_ms=NOON_MS, started_at_ms=NOON_MS, live=[SERVING, CANDIDATE], rows={},
        lag_rows=0, last_hour_ms=None, missed_hours_ms=[], late_rows=0, snapshots=0,
        candidates={CANDIDATE: candidate},
    )  # fmt: skip
    write(data / f"status/cutter-{tier}.json", said)


def embed(data: Path, tier: str, part: int, done: int, tower: str = CANDIDATE, waiting: str = "") -> None:
    said = EmbedStatus(
        tier=tier, tower_version=tower, run_id="run", written_at_ms=NOON_MS, partitions=8, done=done,
        state_rows=0, state_rows_expected=0, rows=0, failed=0, rows_per_second=0.0, eta_seconds=None,
        waiting=waiting,
    )  # fmt: skip
    write(data / f"status/embed-{tier}-{part}of2.json", said)


def test_without_a_rollover_there_is_none_whatever_else_lies_there(tmp_path: Path) -> None:
    cutter(tmp_path, "realtime", 0.5)

    assert read_rollover(tmp_path, NOON_MS) is None


def test_every_tier_is_as_far_as_its_cutter_or_its_slowest_batch_part_says(tmp_path: Path) -> None:
    begin(tmp_path)
    cutter(tmp_path, "realtime", 0.75, "3 Pins are missing")
    embed(tmp_path, "batch", 0, 8)
    embed(tmp_path, "batch", 1, 2, waiting="for worker 3")
    embed(tmp_path, "other", 0, 8, tower=SERVING)

    found = read_rollover(tmp_path, NOON_MS)

    assert found is not None
    assert (found.candidate, found.serving, found.age_seconds) == (CANDIDATE, SERVING, 60)
    assert [(one.tier, one.covered, one.waits_for) for one in found.tiers] == [
        ("batch", 0.25, "for worker 3"),
        ("realtime", 0.75, "3 Pins are missing"),
    ]


def test_files_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    begin(tmp_path)
    cutter(tmp_path, "realtime", 1.0)
    (tmp_path / "status/cutter-torn.json").write_text('{"tier": "to')
    (tmp_path / "status/cutter-strange.json").write_text('["no", "object"]')

    found = read_rollover(tmp_path, NOON_MS)

    assert found is not None
    assert found.progress() == {"realtime": 1.0}


def test_the_series_are_gone_when_the_rollover_is(tmp_path: Path) -> None:
    begin(tmp_path)
    cutter(tmp_path, "realtime", 0.5)
    registry = CollectorRegistry()
    telemetry = ServingTelemetry(registry).rollover
    value = registry.get_sample_value

    telemetry.show(read_rollover(tmp_path, NOON_MS))
    assert value("skewless_rollover_progress_ratio", {"tier": "realtime"}) == 0.5
    assert value("skewless_rollover_age_seconds", {"version": CANDIDATE[:12]}) == 60

    (tmp_path / "towers/ROLLOVER.json").unlink()
    telemetry.show(read_rollover(tmp_path, NOON_MS))
    assert value("skewless_rollover_progress_ratio", {"tier": "realtime"}) is None
    assert value("skewless_rollover_age_seconds", {"version": CANDIDATE[:12]}) is None
