"""Forces of rewards on an estimate of the clean image: three estimators of one policy gradient.

Rewards are normalised over regions: the whole image, or each patch of a map reward. Each of R regions gets a
force of length 1 / sqrt(R), so that the force on an image has unit length in both cases. With e_j the noise
of sample j, e_j[n] its restriction to region n, and r_n the reward of that region:

    score          F[n] = 1/G sum_j A_jn e_j[n] / sqrt(R),   A_jn = (r_jn - mean_j) / std_j
    pathwise       F[n] = grad_n / |grad_n| / sqrt(R),       grad_n = d (sum_m r_m) / d x^[n]
    pathwise-raw   F = grad of the mean of r over regions, not normalised

For one region and a smooth reward E[F_score] = c_G F_pathwise as s -> 0, c_G = 0.69, 0.84, 0.92 for
G = 4, 8, 16; for several regions if the reward of each depends on that region only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Context

FLOOR = 1e-8  # gradients and standard deviations below this count as zero and give no force
SMALLEST_SCALE = 1e-3  # lower bound of |d x0_hat / d prediction| in divisions


class RewardForce(NamedTuple):
    """The force on n samples, and statistics of the rewards by name."""

    force: Tensor  # [n, C, H, W], the weighted sum over rewards
    reward: dict[str, Tensor]  # [n], raw; mean over a group
    gradient: dict[str, Tensor]  # [n], |grad r|; for score std(r) / s_t; mean over regions
    without_force: dict[str, Tensor]  # [n], fraction of regions without force
    advantage: dict[str, Tensor]  # [G, n, h, w]; none for pathwise


def pathwise(
    context: Context,
    acting: Tensor,
    weights: Mapping[str, float],
    *,
    normalised: bool,
    per_patch: bool,
    shuffle: bool,
) -> RewardForce:
    """Force from the gradients of the rewards at x0_hat.

    Costs one forward pass of the reward network and one backward pass per reward.

    Args:
        context: the step.
        acting: [n] indices in the whole batch of the samples that rewards act on.
        weights: reward name -> weight.
        normalised: normalise the force per region; false: pathwise-raw.
        per_patch: regions are patches if the reward has a value per patch.
        shuffle: permute forces over samples (control).
    """
    assert context.rewards is not None
    place, own = local_rows(context, acting)
    estimate = context.x0_hat.detach()[own].float().requires_grad_()
    with torch.enable_grad():
        rewards = context.rewards(estimate, own)
    found = RewardForce(torch.zeros_like(estimate), {}, {}, {}, {})
    of_other = shuffle_across(context, len(acting), place) if shuffle else _unchanged
    for name, weight in weights.items():
        reward = regions(rewards[name], per_patch, estimate.ndim - 3)  # [n, h, w]
        total = reward.sum() if normalised else reward.mean(dim=(1, 2)).sum()
        (gradient,) = torch.autograd.grad(total, estimate, retain_graph=True)
        size = reward.shape[-2:]
        length = norm_by_region(gradient, size)
        force = gradient
        if normalised:
            inverse = torch.where(length > FLOOR, 1 / length, 0) / size.numel() ** 0.5
            force = gradient * to_pixels(inverse, gradient)
        found.force.add_(of_other(force), alpha=weight)
        found.reward[name] = reward.detach().mean(dim=(1, 2))
        found.gradient[name] = length.mean(dim=(1, 2))
        found.without_force[name] = (length <= FLOOR).float().mean(dim=(1, 2))
    return found


def score(
    context: Context,
    acting: Tensor,
    weights: Mapping[str, float],
    *,
    group_size: int,
    spread: float,
    per_patch: bool,
    shuffle: bool,
) -> RewardForce:
    """Force from advantages of `group_size` samples x0_hat + s_t e, without gradients of the rewards.

    Costs `group_size` forward passes of the reward network. Arguments as in `pathwise`; `spread` is s, the
    standard deviation of the policy in units of the prediction.
    """
    assert context.rewards is not None
    place, own = local_rows(context, acting)
    estimate = context.x0_hat.detach()[own].float()
    drawn = torch.randn((group_size, len(acting), *estimate.shape[1:]), generator=context.generator)
    directions = drawn[:, place.cpu()].to(estimate)
    deviation = spread * context.x0_hat_scale[own].clamp(min=SMALLEST_SCALE)  # [n], s_t
    with torch.no_grad():
        rewards = context.rewards(estimate + deviation.view(-1, 1, 1, 1) * directions, own)
    found = RewardForce(torch.zeros_like(estimate), {}, {}, {}, {})
    of_other = shuffle_across(context, len(acting), place) if shuffle else _unchanged
    for name, weight in weights.items():
        reward = regions(rewards[name].float(), per_patch, estimate.ndim - 3 + 1)  # [G, n, h, w]
        advantage = standardise(reward)
        applied = of_other(advantage.transpose(0, 1)).transpose(0, 1)
        pixels = to_pixels(applied.flatten(0, 1), estimate).view(group_size, -1, 1, *estimate.shape[2:])
        force = (pixels * directions).mean(dim=0) / reward.shape[-2:].numel() ** 0.5
        found.force.add_(force, alpha=weight)
        found.reward[name] = reward.mean(dim=(0, 2, 3))
        found.gradient[name] = reward.std(dim=0).mean(dim=(1, 2)) / deviation
        found.without_force[name] = (advantage == 0).all(dim=0).float().mean(dim=(1, 2))
        found.advantage[name] = advantage
    return found


def _unchanged(values: Tensor) -> Tensor:
    return values


def standardise(rewards: Tensor) -> Tensor:
    """Advantages within each group, [G, ...] -> [G, ...]: zero mean, unit sample standard deviation.

    If all rewards of a group are equal up to rounding, the advantages are zero.
    """
    centred = rewards - rewards.mean(dim=0)
    deviation = centred.square().sum(dim=0).div(rewards.shape[0] - 1).sqrt()
    floor = FLOOR + 1e-6 * rewards.abs().amax(dim=0)
    return torch.where(deviation > floor, centred / deviation, 0)


def regions(reward: Tensor, per_patch: bool, sample_dims: int) -> Tensor:
    """A reward by region, [..., h, w]: its patches, or 1 x 1 for the whole image.

    `sample_dims` is the number of dimensions that precede those of patches, if there are any.
    """
    if reward.ndim == sample_dims:
        return reward[..., None, None]
    return reward if per_patch else reward.mean(dim=(-2, -1), keepdim=True)


def norm_by_region(image: Tensor, size: torch.Size) -> Tensor:
    """Euclidean norm of an image in each region, [B, C, H, W] -> [B, h, w] for `size` (h, w)."""
    squares = F.adaptive_avg_pool2d(image.square().sum(dim=1), (size[0], size[1]))
    return (squares * (image.shape[-2] * image.shape[-1] / size.numel())).sqrt()


def to_pixels(values: Tensor, image: Tensor) -> Tensor:
    """Values per region expanded to pixels, [M, h, w] -> [M, 1, H, W]."""
    return F.interpolate(values[:, None], image.shape[-2:], mode="nearest")


def trusted(force: Tensor, towards: Tensor) -> Tensor:
    """A force [n, ...], each sample's times its cosine with `towards` [n, ...]; 0 where that is negative."""
    agreement = F.cosine_similarity(force.flatten(1), towards.flatten(1)).clamp(min=0)
    return force * agreement.view(-1, *[1] * (force.ndim - 1))


def local_rows(context: Context, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Those of `samples`, indices in the whole batch, that are in this context.

    Returns:
        Their positions in `samples` [n], and their rows in the context [n].
    """
    rows = samples - context.share.rows.start
    place = ((rows >= 0) & (rows < len(context.x0))).nonzero()[:, 0]
    return place, rows[place]


def shuffle_across(context: Context, samples: int, place: Tensor | slice) -> Callable[[Tensor], Tensor]:
    """A function that permutes values [n, ...] over samples, for the control `shuffle`.

    One permutation of `samples` samples of the whole batch; this context holds those at `place`.
    """
    order = torch.randperm(samples, generator=context.generator).to(context.x0.device)[place]

    def shuffled(values: Tensor) -> Tensor:
        return context.share.gather(values)[order]

    return shuffled
