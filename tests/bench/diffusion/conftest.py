"""The data distributions and the random stream that these tests share."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.closed_forms import Mixture


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def mixture() -> Mixture:
    """Three unlike Gaussians in 4 dimensions (1 x 2 x 2 pixels)."""
    means = torch.tensor([[0.0, 1.0, -1.0, 0.5], [1.5, -0.5, 0.0, 1.0], [-1.0, -1.0, 1.0, 0.0]])
    return Mixture(
        means.double().view(3, 1, 2, 2),
        torch.tensor([0.3, 0.7, 0.5], dtype=torch.float64),
        torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64),
    )


@pytest.fixture
def gaussian() -> Mixture:
    """One Gaussian in 4 dimensions."""
    mean = torch.tensor([0.5, -1.0, 0.0, 1.0], dtype=torch.float64).view(1, 1, 2, 2)
    return Mixture(mean, torch.tensor([0.4]).double(), torch.tensor([1.0]).double())
