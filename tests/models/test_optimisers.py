import torch

from models.optimisers import RowAdagrad


def test_only_rows_with_a_gradient_move_and_each_by_the_rate_at_first() -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    torch.nn.init.zeros_(table.weight)
    optimiser = RowAdagrad([table.weight], rate=0.5)
    table(torch.tensor([1, 1])).sum().backward()
    optimiser.step()
    assert table.weight.tolist() == [[0, 0], [-0.5, -0.5], [0, 0], [0, 0]]
    assert table.weight.grad is None
    table(torch.tensor([1])).sum().backward()
    optimiser.step()
    # Gradients 2 and 1: the second step is 0.5 * 1 / sqrt(4 + 1).
    assert torch.allclose(table.weight[1], torch.full((2,), -0.5 - 0.5 / 5**0.5))
