"""recall@k of retrieved Pins against what was really in the basket."""

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

_ROUNDS = 1_000
_COVERAGE = 0.95


def recall_at_k(retrieved: Ids, relevant: list[Ids], k: int) -> npt.NDArray[np.float64]:
    """Of each query's relevant Pins, the share among its first `k` retrieved ones: shape (Q,).

    recall@k = |first k of retrieved ∩ relevant| / |relevant| (Manning, Raghavan, Schütze,
    «Introduction to Information Retrieval», 2008, chapter 8). Not divided by min(k, |relevant|), so
    a basket of 40 cannot reach 1 at k = 20. `retrieved` (Q, at least k), best first, without repeats.
    Raises ValueError for an empty basket or fewer than k retrieved.

    The first query bought 1, 2 and 9 and found 1 and 2 among its first three; the second found nothing:

    >>> recall_at_k(np.array([[2, 7, 1, 9], [5, 6, 7, 8]]), [np.array([1, 2, 9]), np.array([8])], 3)
    array([0.66666667, 0.        ])
    """
    if retrieved.shape[0] != len(relevant) or retrieved.shape[1] < k:
        raise ValueError(f"{retrieved.shape} Pins retrieved for {len(relevant)} queries and k = {k}")
    if any(len(basket) == 0 for basket in relevant):
        raise ValueError("a query without relevant Pins has no recall")
    return np.array(
        [np.isin(basket, top).mean() for basket, top in zip(relevant, retrieved[:, :k], strict=True)]
    )


def bootstrap_interval(values: npt.NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean (Efron 1979), resampling queries 1,000 times."""
    generator = np.random.default_rng(seed)
    means = np.array([generator.choice(values, len(values)).mean() for _ in range(_ROUNDS)])
    tail = (1 - _COVERAGE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
