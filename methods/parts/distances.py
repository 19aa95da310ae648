"""Distances between tokens, one value per sample, computed in float32 (float64 for float64 inputs)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32; float64 is kept."""
    return x if x.dtype == torch.float64 else x.float()


def euclidean_norm(x: Tensor) -> Tensor:
    """Euclidean norm of each row, [B, D] -> [B]."""
    return cast(Tensor, x.norm(dim=1))  # pyright: ignore[reportUnknownMemberType]


def token_cosines(tokens: Tensor, target: Tensor) -> Tensor:
    """Cosine similarity of each token, [B, N, D] x [B, N, D] -> [B, N]; half precision would overflow."""
    return F.cosine_similarity(at_least_float32(tokens), at_least_float32(target), dim=-1)


def cosine(tokens: Tensor, target: Tensor) -> Tensor:
    """Mean cosine similarity over tokens, [B, N, D] x [B, N, D] -> [B]."""
    return token_cosines(tokens, target).mean(dim=1)


def cosine_over_tokens(tokens: Tensor, target: Tensor) -> Tensor:
    """Cosine similarity over the tokens of each channel, averaged, [B, N, D] x [B, N, D] -> [B]."""
    return cosine(tokens.transpose(1, 2), target.transpose(1, 2))


def mean_square(values: Tensor, target: Tensor) -> Tensor:
    """Squared difference, averaged over all entries of a sample, [B, ...] x [B, ...] -> [B]."""
    return (at_least_float32(values) - at_least_float32(target)).square().flatten(1).mean(dim=1)


def smooth_l1(values: Tensor, target: Tensor, beta: float) -> Tensor:
    """Smooth-L1 distance, averaged over all entries of a sample, [B, ...] x [B, ...] -> [B].

    With x the difference: x^2 / (2 beta) for |x| < beta, else |x| - beta / 2.
    """
    values, target = at_least_float32(values), at_least_float32(target)
    return F.smooth_l1_loss(values, target, reduction="none", beta=beta).flatten(1).mean(dim=1)


def spatial_norm(tokens: Tensor, gamma: float) -> Tensor:
    """Normalisation over the tokens of a sample, per channel, as in iREPA: (y - gamma mean) / (std + 1e-6).

    [B, N, D] -> [B, N, D]; `std` is unbiased, so N = 1 gives NaN.
    """
    tokens = at_least_float32(tokens)
    return (tokens - gamma * tokens.mean(dim=1, keepdim=True)) / (tokens.std(dim=1, keepdim=True) + 1e-6)


def attention_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of attention maps, logits [B, heads, N, N] each -> [B], mean over heads and rows.

    Heads that only one of the two has are ignored.
    """
    heads = min(student.shape[1], teacher.shape[1])
    predicted = at_least_float32(student[:, :heads]).log_softmax(dim=-1)
    wanted = at_least_float32(teacher[:, :heads]).softmax(dim=-1)
    return -(wanted * predicted).sum(dim=-1).mean(dim=(1, 2))
