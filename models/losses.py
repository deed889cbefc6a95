"""In-batch sampled softmax with the correction for how likely each candidate was to be in the batch."""

import torch
from torch.nn import functional

_EXCLUDED = -1e9


def sampled_softmax(
    scores: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    log_inclusion: torch.Tensor,
    pair_weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted mean over positive pairs of -log of the positive's estimated softmax probability.

    `scores` (Q, C) of every query with every candidate of the batch; pair i is positive at
    (`rows[i]`, `columns[i]`); `log_inclusion` (C,) is the log of the probability that the candidate
    came into the batch; `pair_weights` (N,).

    The partition function is exp(s+) + sum over candidates that are not positives of this query of
    exp(s - log Q): subtracting log Q (Yi et al., «Sampling-bias-corrected neural modeling for large
    corpus item recommendations», RecSys 2019) makes the sum an unbiased estimate over all Pins. The
    query's own positives are masked (they would be accidental hits), and the positive itself, which
    is there with certainty, is not corrected (Khrylchenko et al., «Correcting the LogQ correction»,
    RecSys 2025).
    """
    negatives = (scores - log_inclusion).index_put(
        (rows, columns), torch.tensor(_EXCLUDED, dtype=scores.dtype, device=scores.device)
    )
    gaps = torch.logsumexp(negatives, dim=1)[rows] - scores[rows, columns]
    return (functional.softplus(gaps) * pair_weights).sum() / pair_weights.sum()
