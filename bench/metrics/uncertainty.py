"""Uncertainty of Frechet distances: bias due to the number of samples, and standard deviation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.metrics.frechet import Gaussian, frechet_distance, gaussian_of

POINTS = 15  # sample counts of the extrapolation


def extrapolated(features: Tensor, reference: Gaussian, seed: int = 0) -> float:
    """FID-infinity (Chong and Forsyth 2020, arXiv 1911.07023) of sample features [N, D].

    The bias for n samples is about c / n, so the distance is computed for POINTS subsets of n = N/10 .. N
    samples, and a linear fit over 1/n is extrapolated to 1/n = 0. May be negative.
    """
    draw = torch.Generator().manual_seed(seed)
    total = len(features)
    counts = np.linspace(max(total // 10, 2), total, POINTS).astype(int)
    subsets = [torch.randperm(total, generator=draw)[:count].to(features.device) for count in counts]
    distances = [frechet_distance(gaussian_of(features[subset]), reference) for subset in subsets]
    _slope, intercept = np.polyfit(1 / counts, distances, deg=1)
    return float(intercept)


def bootstrap_spread(features: Tensor, reference: Gaussian, resamples: int, seed: int = 0) -> float:
    """Standard deviation of the Frechet distance over bootstrap resamples of features [N, D].

    It estimates the variation between sets of N samples from the same model, not between training runs.
    """
    draw = torch.Generator().manual_seed(seed)
    size = (len(features),)
    distances = []
    for _ in range(resamples):
        chosen = torch.randint(len(features), size, generator=draw).to(features.device)
        distances.append(frechet_distance(gaussian_of(features[chosen]), reference))
    return float(np.std(distances, ddof=1))
