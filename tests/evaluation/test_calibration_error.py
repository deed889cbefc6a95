import math

import numpy as np
import pytest

from evaluation.calibration_error import calibration_error


def test_right_probabilities_have_no_calibration_error() -> None:
    predicted = np.repeat([0.25, 0.5], 4)
    labels = np.array([1, 0, 0, 0, 1, 1, 0, 0], bool)
    found = calibration_error(predicted, labels, buckets=2)
    assert (found.ece, found.log_mae, found.expected_over_observed) == (0.0, 0.0, 1.0)
    expected = -(math.log(0.25) + 3 * math.log(0.75) + 4 * math.log(0.5)) / 8
    assert found.log_loss == pytest.approx(expected)


def test_a_constant_factor_too_high_is_its_logarithm() -> None:
    predicted = 2 * np.repeat([0.25, 0.5], 4)
    labels = np.array([1, 0, 0, 0, 1, 1, 0, 0], bool)
    found = calibration_error(predicted, labels, buckets=2)
    assert found.log_mae == pytest.approx(math.log(2))
    assert found.expected_over_observed == 2.0
    assert found.ece == pytest.approx((0.25 + 0.5) / 2)


def test_certainty_that_was_wrong_costs_much_and_not_infinity() -> None:
    found = calibration_error(np.array([1.0, 0.0]), np.array([False, True]))
    assert math.isfinite(found.log_loss)
    assert found.log_loss > 20


def test_parts_without_positives_say_nothing_about_ratios() -> None:
    found = calibration_error(np.array([0.1, 0.1, 0.5, 0.5]), np.array([0, 0, 1, 0], bool), buckets=2)
    assert found.log_mae == 0.0
    assert found.ece == pytest.approx(0.05)


def test_without_a_positive_or_with_other_lengths_there_is_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="0 positive"):
        calibration_error(np.array([0.5]), np.array([False]))
    with pytest.raises(ValueError, match="labels"):
        calibration_error(np.array([0.5]), np.array([True, False]))
