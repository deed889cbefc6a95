"""What cutters, batch embedders and `skewless rollover` write, as the console's reader takes it."""

from pathlib import Path

from entrypoints.rollover_record import write_rollover
from entrypoints.settings import Settings
from schemas.rollovers import Rollover
from schemas.statuses import CandidateStatus, CutterStatus
from serving.rollover_status import read_rollover
from streams.embed_status import EmbedMeter

STARTED_MS = 1_700_000_000_000
SERVING, CANDIDATE = "a" * 64, "b" * 64


def test_a_rollover_is_read_as_its_writers_wrote_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    settings.towers_dir.mkdir()
    record = Rollover(
        candidate=CANDIDATE, serving=SERVING, started_ms=STARTED_MS, actor="ada", reason="week 32",
        manual=False, kept_snapshots=[], kept_releases=[], kept_runs=[], baseline={},
    )  # fmt: skip
    write_rollover(settings, record)
    candidate = CandidateStatus(
        pins=9, of=12, covered=0.75, behind=0, missing_pins=[1, 2, 3], ready=False,
        blocked="no row of 3 of 12 Pins", partitions={0: 0.5, 1: 1.0},
    )  # fmt: skip
    cutter = CutterStatus(
        tier="realtime", written_at_ms=STARTED_MS, started_at_ms=STARTED_MS, live=[SERVING, CANDIDATE],
        rows={SERVING: 12, CANDIDATE: 9}, lag_rows=0, last_hour_ms=None, missed_hours_ms=[], late_rows=0,
        snapshots=0, candidates={CANDIDATE: candidate},
    )  # fmt: skip
    meter = EmbedMeter("slow", CANDIDATE, now=0.0)
    meter.begin("run", partitions=8, expected=100, now=1.0)
    meter.done, meter.waiting = 2, "for worker 3"
    settings.status_file("any").parent.mkdir()
    settings.status_file("cutter-realtime").write_text(cutter.model_dump_json())
    settings.status_file("embed-slow-0of2").write_text(meter.status(2.0, STARTED_MS).model_dump_json())

    found = read_rollover(tmp_path, STARTED_MS + 60_000)

    assert found is not None
    assert (found.candidate, found.serving, found.age_seconds) == (CANDIDATE, SERVING, 60)
    assert [(one.tier, one.covered, one.waits_for) for one in found.tiers] == [
        ("realtime", 0.75, "no row of 3 of 12 Pins"),
        ("slow", 0.25, "for worker 3"),
    ]
