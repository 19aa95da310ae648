import numpy as np
import pytest
import torch

from bench.metrics.frechet import Gaussian, frechet_distance, gaussian_of
from bench.metrics.uncertainty import bootstrap_spread, extrapolated

DIMENSION, SHIFT = 16, 0.2
TRUTH = DIMENSION * SHIFT**2  # of endless samples: equal covariances, shifted means
REFERENCE = Gaussian(torch.full((DIMENSION,), SHIFT).double(), torch.eye(DIMENSION).double())


def samples(seed: int, count: int = 2000) -> torch.Tensor:
    return torch.randn(count, DIMENSION, generator=torch.Generator().manual_seed(seed))


def test_extrapolation_removes_the_bias_of_the_sample_count():
    plain = np.mean([frechet_distance(gaussian_of(samples(seed, 300)), REFERENCE) for seed in range(10)])
    endless = np.mean([extrapolated(samples(seed, 300), REFERENCE) for seed in range(10)])
    assert plain - TRUTH > 0.1
    assert endless == pytest.approx(TRUTH, abs=0.03)


def test_bootstrap_spread_is_that_of_independent_draws():
    distances = [frechet_distance(gaussian_of(samples(seed)), REFERENCE) for seed in range(200)]
    spread = np.mean([bootstrap_spread(samples(seed), REFERENCE, resamples=30) for seed in range(5)])
    assert spread == pytest.approx(np.std(distances), rel=0.25)
