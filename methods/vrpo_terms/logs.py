"""Diagnostics of VRPO: rewards, forces, advantages and KL terms, overall and by noise bin.

All of them are computed from tensors of the step; no network is evaluated.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from methods.base import Context
from methods.parts.distances import euclidean_norm
from methods.vrpo_terms.forces import RewardForce
from methods.vrpo_terms.weighting import BINS, bin_of

HISTOGRAM_EDGES = (-2.0, -1.0, 0.0, 1.0, 2.0)


def by_noise(name: str, values: Tensor, noise_level: Tensor) -> dict[str, Tensor]:
    """The mean of `values` [B] over the batch, and over each noise bin that has samples."""
    found = {name: values.mean()}
    bins = bin_of(noise_level)
    for number in range(BINS):
        inside = bins == number
        if inside.any():
            found[f"{name} (t {number / BINS:g}-{(number + 1) / BINS:g})"] = values[inside].mean()
    return found


def of_reward_force(force: RewardForce, noise_level: Tensor) -> dict[str, Tensor]:
    """Mean and standard deviation of each reward over the batch, norm of its gradient, and advantages."""
    logs: dict[str, Tensor] = {}
    for name, reward in force.reward.items():
        logs |= by_noise(f"reward/{name}", reward, noise_level)
        logs[f"reward/{name}_spread"] = reward.std(correction=0)  # of one sample: 0
    for name, length in force.gradient.items():
        logs |= by_noise(f"gradient/{name}", length, noise_level)
        logs[f"gradient/{name}_zero_share"] = force.without_force[name].mean()
    for name, advantage in force.advantage.items():
        logs[f"advantage/{name}_spread"] = advantage.std()
    if force.advantage:
        logs |= histogram(torch.stack([x.flatten() for x in force.advantage.values()]))
    return logs


def histogram(advantage: Tensor) -> dict[str, Tensor]:
    """Fraction of advantages in each bin of the histogram."""
    edges = torch.tensor(HISTOGRAM_EDGES, device=advantage.device)
    counts = torch.bucketize(advantage.flatten(), edges).bincount(minlength=len(edges) + 1)
    limits = ["-inf", *(f"{edge:g}" for edge in HISTOGRAM_EDGES), "inf"]
    names = [f"advantage/{low}..{high}" for low, high in pairwise(limits)]
    return dict(zip(names, counts / counts.sum(), strict=True))


def of_force(force: Tensor, factor: Tensor, context: Context, noise_level: Tensor) -> dict[str, Tensor]:
    """The force of rewards on x0_hat [B, C, H, W] compared with that of the mean squared error.

    `force_ratio` is the ratio of their norms on the prediction, where that of the rewards is scaled by
    `factor` [B]. `force_cosine` is the cosine between the force and the direction from x0_hat to x0.
    """
    acting = factor * euclidean_norm(force.flatten(1))
    if not torch.any(acting):
        return {}
    there = acting > 0
    error = (context.target - context.prediction).detach().float().flatten(1)[there]
    ratio = acting[there] / (2 * euclidean_norm(error) / error.shape[1])
    to_data = (context.x0 - context.x0_hat.detach()).float().flatten(1)[there]
    cosine = torch.cosine_similarity(force.flatten(1)[there], to_data)
    level = noise_level[there]
    return by_noise("force_ratio", ratio, level) | by_noise("force_cosine", cosine, level)


def of_divergence(context: Context, noise_level: Tensor, alignment: Tensor | None) -> dict[str, Tensor]:
    """The two terms of the KL in units of the loss: mean squared error, and REPA's weighted 1 - cos [B]."""
    error = (context.prediction - context.target).detach().float()
    logs = by_noise("kl/image", error.square().flatten(1).mean(1), noise_level)
    if alignment is not None:
        logs |= by_noise("kl/tokens", alignment.detach(), noise_level)
    return logs
