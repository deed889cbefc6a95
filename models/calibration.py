"""Platt scaling: a dot product -> the probability of engagement."""

import numpy as np
import numpy.typing as npt

from schemas.manifests import Calibration

_STEPS = 50
_TOLERANCE = 1e-10
_RIDGE = 1e-9


def probabilities(dots: npt.NDArray[np.floating], calibration: Calibration) -> npt.NDArray[np.float64]:
    """sigmoid(slope * dot + intercept)."""
    logits = calibration.slope * dots.astype(np.float64) + calibration.intercept
    return 1 / (1 + np.exp(-np.clip(logits, -700, 700)))


def fit_calibration(dots: npt.NDArray[np.floating], labels: npt.NDArray[np.bool_]) -> Calibration:
    """The slope and intercept of greatest likelihood (Platt 1999), by Newton's method.

    Labels are softened as Platt does, (n+ + 1) / (n+ + 2) and 1 / (n- + 2), so separable data give a
    finite slope. Raises ValueError without both labels, or for a dot product that is not finite.
    """
    if not np.isfinite(dots).all():
        raise ValueError("a dot product is not finite")
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if positives == 0 or negatives == 0:
        raise ValueError(
            f"calibration needs both labels, came {positives} positives and {negatives} negatives"
        )
    target = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # Standardised, so that Newton's method starts near the answer whatever the temperature.
    mean, spread = float(dots.mean()), float(dots.std()) or 1.0
    design = np.stack([(dots.astype(np.float64) - mean) / spread, np.ones(len(dots))], axis=1)
    weights: npt.NDArray[np.float64] = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    for _ in range(_STEPS):
        step = _newton_step(design, target, weights)
        weights = weights - step
        if np.abs(step).max() < _TOLERANCE:
            break
    slope = weights[0] / spread
    return Calibration(slope=float(slope), intercept=float(weights[1] - slope * mean))


def _newton_step(
    design: npt.NDArray[np.float64], target: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Hessian^-1 gradient of the mean log loss, at most 2 in length: far away Newton's step overshoots."""
    probability: npt.NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(design @ weights, -700, 700)))
    gradient = design.T @ (probability - target) / len(target)
    curvature = probability * (1 - probability)
    hessian = (design * curvature[:, None]).T @ design / len(target) + _RIDGE * np.eye(2)
    step: npt.NDArray[np.float64] = np.linalg.solve(hessian, gradient).astype(np.float64)
    shortened: npt.NDArray[np.float64] = step * min(1.0, 2.0 / max(float(np.linalg.norm(step)), 1e-12))
    return shortened
