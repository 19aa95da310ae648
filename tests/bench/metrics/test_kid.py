import numpy as np
import pytest
import torch

from bench.metrics.kid import kernel_distance


def test_distance_matches_the_unbiased_estimator_where_a_subset_is_everything():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 12, generator=draw), torch.randn(90, 12, generator=draw) + 0.3

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.double() @ b.double().T / 12 + 1) ** 3

    def off_diagonal_mean(matrix: torch.Tensor) -> torch.Tensor:
        return (matrix.sum() - matrix.trace()) / (90 * 89)

    truth = off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y)) - 2 * kernel(x, y).mean()
    assert kernel_distance(x, y) == pytest.approx(truth.item(), rel=1e-4)


def test_random_subsets_repeat_and_leave_numpys_generator_alone():
    x, y = torch.randn(1100, 4), torch.randn(1050, 4)
    np.random.seed(7)
    expected = np.random.rand()
    np.random.seed(7)
    assert kernel_distance(x, y) == kernel_distance(x, y)
    assert np.random.rand() == expected
