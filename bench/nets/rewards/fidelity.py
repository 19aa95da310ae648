"""Fidelity rewards: minus the mean squared error of the estimate, of x0 or of the prediction.

    x0         -(x^ - x0)^2
    velocity   -((x^ - x0) / scale)^2,  scale = |d x0_hat / d prediction|

For velocity prediction the second is -(v - u)^2, for noise prediction -(eps_hat - eps)^2. The two are equal
after normalisation per sample.
"""

from __future__ import annotations

from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor

from bench.nets.rewards.base import RewardBatch, RewardFn

SMALLEST_SCALE = 1e-3


class SquaredErrors:
    """Maps [G, B, h, w] of (-inf, 0], on a grid of patches."""

    def __init__(self, names: Collection[str], grid: tuple[int, int]) -> None:
        self.names, self.grid = names, grid

    def bind(self, batch: RewardBatch) -> RewardFn:
        scale = batch.scale.clamp(min=SMALLEST_SCALE)[:, None, None]

        def rewards(estimate: Tensor) -> dict[str, Tensor]:
            error = (estimate - batch.x0).square().mean(dim=2)  # [G, B, H, W]
            x0 = -F.adaptive_avg_pool2d(error, self.grid)
            return {name: x0 if name == "x0" else x0 / scale**2 for name in self.names}

        return rewards
