"""How far a Frechet distance can be trusted: its bias with the sample count, and its spread over samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.metrics.frechet import Gaussian, frechet_distance, gaussian_of

POINTS = 15  # sample counts of the extrapolation


def extrapolated(features: Tensor, reference: Gaussian, seed: int = 0) -> float:
    """FID-infinity (Chong and Forsyth 2020, arXiv 1911.07023), of sample features [N, D].

    The distance of n samples is biased by about c / n, so it is computed for POINTS subsets of n = N/10 .. N
    samples and the line through distance over 1/n is followed to 1/n = 0. May come out below 0.
    """
    draw = torch.Generator().manual_seed(seed)
    total = len(features)
    counts = np.linspace(max(total // 10, 2), total, POINTS).astype(int)
    subsets = [torch.randperm(total, generator=draw)[:count].to(features.device) for count in counts]
    distances = [frechet_distance(gaussian_of(features[subset]), reference) for subset in subsets]
    _slope, intercept = np.polyfit(1 / counts, distances, deg=1)
    return float(intercept)


def bootstrap_spread(features: Tensor, reference: Gaussian, resamples: int, seed: int = 0) -> float:
    """Standard deviation of the Frechet distance over resamples, with replacement, of features [N, D].

    It tells how much another draw of N samples from the same model would differ, not how another training
    would.
    """
    draw = torch.Generator().manual_seed(seed)
    size = (len(features),)
    distances = []
    for _ in range(resamples):
        chosen = torch.randint(len(features), size, generator=draw).to(features.device)
        distances.append(frechet_distance(gaussian_of(features[chosen]), reference))
    return float(np.std(distances, ddof=1))
