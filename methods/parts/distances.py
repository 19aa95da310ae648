"""Distances between tokens, one number per sample.

Half precision is raised to float32, in which losses are computed; float64 stays float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 if it is in that."""
    return x if x.dtype == torch.float64 else x.float()


def cosine(tokens: Tensor, target: Tensor) -> Tensor:
    """Mean over tokens of the cosine, [B, N, D] x [B, N, D] -> [B]; half precision would overflow."""
    return F.cosine_similarity(at_least_float32(tokens), at_least_float32(target), dim=-1).mean(dim=1)


def cosine_over_tokens(tokens: Tensor, target: Tensor) -> Tensor:
    """Mean over channels of the cosine of a channel's N values, [B, N, D] x [B, N, D] -> [B]."""
    return cosine(tokens.transpose(1, 2), target.transpose(1, 2))


def mean_square(values: Tensor, target: Tensor) -> Tensor:
    """Mean over all entries of a sample of the squared difference, [B, ...] x [B, ...] -> [B]."""
    return (at_least_float32(values) - at_least_float32(target)).square().flatten(1).mean(dim=1)


def smooth_l1(values: Tensor, target: Tensor, beta: float) -> Tensor:
    """Mean over all entries of a sample, [B, ...] x [B, ...] -> [B].

    x^2 / (2 beta) for |x| < beta, |x| - beta / 2 above, x the difference.
    """
    values, target = at_least_float32(values), at_least_float32(target)
    return F.smooth_l1_loss(values, target, reduction="none", beta=beta).flatten(1).mean(dim=1)


def spatial_norm(tokens: Tensor, gamma: float) -> Tensor:
    """iREPA's normalisation over the tokens of a sample, per channel: (y - gamma mean) / (std + 1e-6).

    [B, N, D] -> [B, N, D]; `std` is the unbiased one, so N = 1 gives NaN.
    """
    tokens = at_least_float32(tokens)
    return (tokens - gamma * tokens.mean(dim=1, keepdim=True)) / (tokens.std(dim=1, keepdim=True) + 1e-6)
