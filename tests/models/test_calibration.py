import numpy as np
import pytest

from models.calibration import fit_calibration, probabilities
from schemas.manifests import Calibration


def test_the_true_slope_and_intercept_are_found_again() -> None:
    generator = np.random.default_rng(0)
    dots = generator.normal(5, 3, 200_000)
    true = Calibration(slope=0.8, intercept=-7.0)
    labels = generator.random(len(dots)) < probabilities(dots, true)
    fitted = fit_calibration(dots, labels)
    assert fitted.slope == pytest.approx(0.8, abs=0.02)
    assert fitted.intercept == pytest.approx(-7.0, abs=0.15)


def test_the_mean_probability_is_the_share_of_positives() -> None:
    generator = np.random.default_rng(1)
    dots = generator.normal(0, 4, 20_000)
    labels = generator.random(len(dots)) < 0.03 + 0.02 * (dots > 0)
    share = probabilities(dots, fit_calibration(dots, labels)).mean()
    assert share == pytest.approx(labels.mean(), rel=0.01)


def test_separable_labels_give_a_finite_slope() -> None:
    fitted = fit_calibration(np.array([-1.0, -2.0, 3.0, 4.0]), np.array([False, False, True, True]))
    assert np.isfinite([fitted.slope, fitted.intercept]).all()
    assert fitted.slope > 0


@pytest.mark.parametrize("label", [True, False])
def test_one_label_alone_is_refused(label: bool) -> None:
    with pytest.raises(ValueError, match="both labels"):
        fit_calibration(np.array([1.0, 2.0]), np.array([label, label]))


def test_a_dot_product_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        fit_calibration(np.array([1.0, np.nan]), np.array([True, False]))
