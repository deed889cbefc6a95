import numpy as np
import pytest

from evaluation.version_mix import VersionMix, mixed_answers


def test_pairs_are_counted_by_how_many_versions_they_are_apart() -> None:
    mix = VersionMix(3)
    mix.add(np.array([2, 2, 0]), np.array([10, 20, 70]))
    # Two queries of version 2: 70 alike, 20 one apart, 10 two apart, each; one of version 0: 10, 20, 70.
    assert mix.pairs_by_lag.tolist() == [2 * 70 + 10, 2 * 20 + 20, 2 * 10 + 70]
    assert (mix.pairs, mix.mixed_pairs, mix.requests, mix.requests_with_mixed) == (300, 150, 3, 3)
    assert mix.mixed_share == 0.5


def test_an_index_of_the_querys_own_version_has_nothing_mixed() -> None:
    mix = VersionMix(2)
    mix.add(np.array([1, 1]), np.array([0, 5]))
    assert (mix.mixed_share, mix.mixed_request_share) == (0.0, 0.0)
    mix.add(np.array([0, 1]), np.array([0, 5]))
    assert (mix.mixed_share, mix.mixed_request_share) == (0.25, 0.25)


def test_nothing_scored_is_no_skew() -> None:
    assert (VersionMix(2).mixed_share, VersionMix(2).mixed_request_share) == (0.0, 0.0)


def test_counts_of_another_number_of_versions_are_refused() -> None:
    with pytest.raises(ValueError, match="counts of 3 versions"):
        VersionMix(3).add(np.array([0]), np.array([1, 2]))


def test_an_answer_is_mixed_when_one_of_its_pins_is() -> None:
    found = mixed_answers(np.array([0, 1, 2]), np.array([[0, 0], [1, 0], [1, 1]]))
    assert found.tolist() == [False, True, True]
