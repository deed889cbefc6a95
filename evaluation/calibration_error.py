"""How right predicted probabilities are, beyond their order."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

BUCKETS = 20
_SMALLEST = 1e-12


@dataclass(frozen=True)
class CalibrationError:
    """Of one set of predictions; every number but `expected_over_observed` is 0 at its best, that is 1."""

    predictions: int
    positives: int
    log_loss: float
    """Mean negative log likelihood, in nats."""
    expected_over_observed: float
    """Sum of the predictions over the number of positives: above 1 is over-confident."""
    ece: float
    """Expected calibration error over `BUCKETS` equal parts by prediction (Naeini et al., AAAI 2015)."""
    log_mae: float
    """Mean over those parts of |ln(mean prediction / share of positives)|; parts without positives stay out.

    A prediction that is c times too high everywhere gives |ln c|.
    """


def calibration_error(predicted: Floats, labels: Labels, buckets: int = BUCKETS) -> CalibrationError:
    """Measure predictions (N,) against what happened (N,). Raises ValueError without a positive label."""
    if predicted.shape != labels.shape or not labels.any():
        raise ValueError(
            f"{predicted.shape} predictions, {labels.shape} labels, {int(labels.sum())} positive"
        )
    clipped = np.clip(predicted, _SMALLEST, 1 - _SMALLEST)
    losses = -np.log(np.where(labels, clipped, 1 - clipped))
    parts = np.array_split(np.argsort(predicted, kind="stable"), min(buckets, len(predicted)))
    means = np.array([predicted[part].mean() for part in parts])
    rates = np.array([labels[part].mean() for part in parts])
    sizes = np.array([len(part) for part in parts])
    seen = rates > 0
    logs = np.abs(np.log(np.maximum(means[seen], _SMALLEST) / rates[seen]))
    return CalibrationError(
        predictions=len(predicted),
        positives=int(labels.sum()),
        log_loss=float(losses.mean()),
        expected_over_observed=float(predicted.sum() / labels.sum()),
        ece=float((np.abs(means - rates) * sizes).sum() / sizes.sum()),
        log_mae=float(np.average(logs, weights=sizes[seen])),
    )
