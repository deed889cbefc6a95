"""An optimiser for embedding tables, of which a batch touches few rows."""

from collections.abc import Sequence

import torch

_EPSILON = 1e-8


class RowAdagrad:
    """Adagrad (Duchi et al., JMLR 2011) with one accumulator a row, for sparse gradients.

    A row moves by rate * g / sqrt(sum over steps of mean(g^2)); rows without a gradient are not touched,
    which makes a step's cost that of its batch and not of the table.
    """

    def __init__(self, tables: Sequence[torch.Tensor], rate: float) -> None:
        self.rate = rate
        self._tables = tables
        self._sums = [torch.zeros(len(table), 1) for table in tables]

    @torch.no_grad()
    def step(self) -> None:
        """Move every row that has a gradient, and forget the gradients."""
        for table, sums in zip(self._tables, self._sums, strict=True):
            if table.grad is None:
                continue
            gradient = table.grad.coalesce()
            rows, values = gradient.indices()[0], gradient.values()
            total = sums[rows] + values.square().mean(dim=1, keepdim=True)
            sums[rows] = total
            table.index_add_(0, rows, values / (total.sqrt() + _EPSILON), alpha=-self.rate)
            table.grad = None
