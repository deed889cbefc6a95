"""Seconds per phase, by the clock that was given."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from index.breakdown import Breakdown
from index.builder import build_measured
from tests.index.builders import REGISTRY, Workshop, rows_of, tower_of


def test_a_phase_that_is_entered_twice_adds_up_also_when_it_fails() -> None:
    ticks: Iterator[float] = iter([0.0, 1.0, 10.0, 13.0])
    timed = Breakdown(lambda: next(ticks))
    with timed.phase("read"):
        pass
    with pytest.raises(ValueError, match="no"), timed.phase("read"):
        raise ValueError("no")
    assert timed.seconds == {"read": 4.0}


def test_a_build_says_where_its_time_went_and_writes_none_of_it(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    cut = workshop.cut(rows_of(400))
    ticks = iter(range(1000))
    report = build_measured(
        workshop.releases,
        workshop.snapshots,
        [cut.snapshot_id],
        tower=tower_of(),
        registry_hash=REGISTRY,
        kind="ivf",
        clock=lambda: float(next(ticks)),
    )
    assert {"verify_snapshots", "read_rows", "checks", "faiss", "recall", "hash", "publish"} <= {
        *report.seconds
    }
    assert report.seconds["checks"] == 2.0  # before and after the rows are joined
    manifest = workshop.releases.directory(report.manifest.release_id) / "manifest.json"
    assert "seconds" not in manifest.read_text()
