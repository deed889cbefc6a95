from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.rollover import met
from benchmarks.rollover_run import Phases
from benchmarks.rollover_swap import ROWS, Published, Rows, difference, read_release_rows, swap_figures
from index.row_files import ATTRIBUTES, SnapshotRows, write_attributes

SERVED: list[tuple[int, int, int, int]] = [(1, 10, -1, 1_000), (2, 20, 5, 2_000), (3, 30, -1, 3_000)]
AS_ASKED = {"asked": 500.0, "acknowledged": 499.0}


def _rows(rows: list[tuple[int, int, int, int]]) -> Rows:
    return np.array(rows, ROWS)


def _rolled_over(candidate: list[tuple[int, int, int, int]]) -> Phases:
    """A release before, one during the rollover at 4.0 s, and the candidate's at 5.0 s."""
    phases = Phases(before_ms=2_500, during_ms=3_500, changes_per_second=AS_ASKED)
    oldest = Published("a", 2_000, _rows([(1, 9, -1, 0), (2, 19, 5, 0), (3, 30, -1, 0)]))
    older = Published("b", 3_000, _rows([(1, 10, -1, 1_000), (2, 19, 5, 0), (3, 30, -1, 3_000)]))
    served = Published("c", 4_000, _rows(SERVED))
    for replaced, new in ((oldest, older), (older, served)):
        phases.note(replaced, new, of_candidate=False)
    phases.note(served, Published("d", 5_000, _rows(candidate)), of_candidate=True)
    return phases


def test_a_candidate_as_fresh_as_what_it_replaces_is_fine_and_its_swap_is_told_though_it_brings_nothing() -> (
    None
):
    figures = _rolled_over(SERVED).figures()
    assert figures["event_to_servable"]["before"] == {
        "releases": 1,
        "rows": 1,
        "p50_seconds": 2.0,
        "p99_seconds": 2.0,
    }
    assert figures["event_to_servable"]["swap"] == {
        "releases": 1,
        "rows": 0,
        "p50_seconds": None,
        "p99_seconds": None,
    }
    assert figures["p99_ratio"] == 1.0
    assert figures["swap"] == {
        "replaced": "c",
        "by": "d",
        "seconds_between": 1.0,
        "rows_gone_back": 0,
        "rows_missing": 0,
        "rows_newer": 0,
        "newest_event_age_seconds": {
            "replaced_at_its_publication": 1.0,
            "replaced_at_the_swap": 2.0,
            "new_at_the_swap": 2.0,
        },
    }
    assert met(figures)


@pytest.mark.parametrize(
    "older",
    [(3, 29, -1, 2_900), (3, 29, 7, 3_000), (3, 31, -1, 2_999), (3, 31, -2, 4_000)],
    ids=["both", "changed_offset", "broker_time", "aggregated_offset"],
)
def test_a_staler_candidate_fails_though_no_row_of_it_is_newer_than_the_newest_seen(
    older: tuple[int, int, int, int],
) -> None:
    figures = _rolled_over([*SERVED[:2], older]).figures()
    assert (figures["swap"]["rows_gone_back"], figures["swap"]["rows_missing"]) == (1, 0)
    assert figures["event_to_servable"]["swap"]["rows"] == 0
    assert figures["p99_ratio"] == 1.0
    assert not met(figures)


def test_a_staler_candidate_is_older_as_a_whole_than_the_release_that_it_replaces() -> None:
    stale = [(1, 9, -1, 0), (2, 19, 5, 500), (3, 29, -1, 900)]
    figures = swap_figures(Published("c", 4_000, _rows(SERVED)), Published("d", 5_000, _rows(stale)))
    assert figures["rows_gone_back"] == 3
    ages = figures["newest_event_age_seconds"]
    assert (ages["replaced_at_its_publication"], ages["replaced_at_the_swap"]) == (1.0, 2.0)
    assert ages["new_at_the_swap"] == 4.1


def test_a_candidate_that_lacks_a_pin_fails() -> None:
    figures = _rolled_over(SERVED[1:]).figures()
    assert (figures["swap"]["rows_gone_back"], figures["swap"]["rows_missing"]) == (0, 1)
    assert not met(figures)


def test_a_rollover_under_a_sixth_of_the_load_fails() -> None:
    figures = _rolled_over(SERVED).figures()
    assert met(figures)
    assert not met(figures | {"changes_per_second": {"asked": 500.0, "acknowledged": 80.0}})


def test_a_rollover_whose_swap_was_not_seen_fails() -> None:
    phases = Phases(before_ms=0, during_ms=3_500, changes_per_second=AS_ASKED)
    phases.note(Published("a", 1, _rows([])), Published("c", 4_000, _rows(SERVED)), of_candidate=False)
    assert not met(phases.figures())
    assert not met(phases.figures() | {"p99_ratio": 1.0})


def test_what_comes_after_the_swap_counts_as_after_whoever_noticed_the_swap_first() -> None:
    phases = _rolled_over(SERVED)
    later = [(1, 11, -1, 5_500), *SERVED[1:]]
    new = Published("e", 6_000, _rows(later))
    phases.note(Published("d", 5_000, _rows(SERVED)), new, of_candidate=True)
    assert phases.releases == {"before": 1, "during": 1, "swap": 1, "after": 1}
    assert phases.seconds["after"] == [0.5]


def test_rows_of_a_late_partition_count_though_other_rows_were_newer_before() -> None:
    found = difference(
        _rows([(7, 1, -1, 100), (3, 5, -1, 9_000)]),
        _rows([(3, 5, -1, 9_000), (9, 0, -1, 300), (7, 2, -1, 200)]),
    )
    assert sorted(found.newer_ingested_ms.tolist()) == [200, 300]
    assert (found.gone_back, found.missing) == (0, 0)
    assert sorted(found.seconds_to_servable(1_200)) == [0.9, 1.0]


def test_the_rows_of_a_release_are_read_from_its_directory(tmp_path: Path) -> None:
    attributes = np.zeros(3, ATTRIBUTES)
    for name in ROWS.names or ():
        attributes[name] = _rows(SERVED)[name]
    vectors, titles = np.zeros((3, 4), np.float16), pa.array(["", "", ""])
    write_attributes(tmp_path, SnapshotRows(attributes, vectors, ["v"], np.zeros(3, np.uint8), titles))
    assert np.array_equal(read_release_rows(tmp_path), _rows(SERVED))
