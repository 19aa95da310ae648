"""Rewards of a frozen convolutional network f, from one forward pass.

features   -mean over maps l before the last of |f_l(x^) - f_l(x0)|^2, f_l normalised at each position:
           LPIPS (arXiv 1801.03924) without learned channel weights
tokens     cos(f_L(x^), f_L(x0)), L the last map
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.nets.local import ConvolutionalNet, LocalNet
from bench.nets.rewards.base import RewardBatch, RewardFn


class NetRewards:
    """Maps [G, B, h, w] on a grid of patches: "features" in [-4, 0], "tokens" in [-1, 1]."""

    def __init__(self, names: Collection[str], net: LocalNet, grid: tuple[int, int]) -> None:
        self.net = net.fused() if isinstance(net, ConvolutionalNet) else net
        self.names, self.grid = names, grid

    def bind(self, batch: RewardBatch) -> RewardFn:
        clean = [F.normalize(x, dim=1) for x in self.net(batch.x0).maps]

        def rewards(estimate: Tensor) -> dict[str, Tensor]:
            groups = estimate.shape[:2]
            maps = self.net(estimate.flatten(0, 1)).maps
            pairs = zip(maps, clean, strict=True)
            distances = [
                F.adaptive_avg_pool2d(
                    (F.normalize(x, dim=1).unflatten(0, groups) - y).square().sum(dim=2), self.grid
                )
                for x, y in pairs
            ]
            found = {
                "features": -torch.stack(distances[:-1]).mean(dim=0),
                "tokens": 1 - distances[-1] / 2,  # |a - b|^2 = 2 - 2 cos(a, b) for unit vectors
            }
            return {name: found[name] for name in self.names}

        return rewards
