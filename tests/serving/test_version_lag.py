from schemas.logs import ReleasePublished
from serving.version_lag import LAGS, lag_label, rows_by_lag, version_order

from .fakes import version

A, B, C, D, E = (version(name) for name in "abcde")
ORDER = [A, B, C, D, E]


def move(tower: str) -> ReleasePublished:
    return ReleasePublished(
        release_id="r",
        tower_version=tower,
        snapshot_id="s",
        action="publish",
        actor="test",
        reason="hourly",
        occurred_at_ms=1,
    )


def test_versions_are_in_the_order_in_which_they_first_went_live_and_candidates_come_last() -> None:
    moves = [move(tower) for tower in (B, B, A, B, A)]

    assert version_order(moves, [A, C]) == [B, A, C]


def test_lag_is_how_many_versions_apart_they_are_either_way() -> None:
    assert [lag_label(one, E, ORDER) for one in ORDER] == ["3+", "3+", "2", "1", "0"]
    assert [lag_label(one, A, ORDER) for one in ORDER] == ["0", "1", "2", "3+", "3+"]


def test_the_lag_of_a_version_that_nobody_published_is_not_guessed() -> None:
    assert lag_label(A, B, [A]) == "unknown"
    assert lag_label(A, B, [B]) == "unknown"
    assert lag_label(A, A, []) == "0"


def test_rows_are_counted_by_lag_and_every_lag_is_named() -> None:
    counted = rows_by_lag({E: 10, D: 5, B: 2, A: 1}, E, ORDER)

    assert counted == {"0": 10, "1": 5, "2": 0, "3+": 3, "unknown": 0}
    assert tuple(counted) == LAGS
