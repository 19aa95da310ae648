"""What a reward is: a function of a clean-image estimate x^ and of the clean image x0 that it estimates.

Higher is better, and every reward is differentiable in x^. "Map" rewards say how good every patch is, on the
backbone's grid of tokens; their mean is the reward of the image. They are listed in registry.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from methods.base import EncoderInfo


class RewardBatch(NamedTuple):
    """What the estimates of a batch are compared with."""

    x0: Tensor  # [B, C, H, W], clean, in model space
    scale: Tensor  # [B], |d x0_hat / d prediction|
    label: Tensor  # [B] int64, the class of x0 (never dropped)


RewardFn = Callable[[Tensor], Mapping[str, Tensor]]  # [G, B, C, H, W] -> name -> [G, B] or [G, B, h, w]


class Reward(Protocol):
    """One or several rewards that share their computation."""

    def bind(self, batch: RewardBatch) -> RewardFn:
        """Rewards of estimates of this batch, differentiable in them, in float32."""
        ...


class RewardContext(NamedTuple):
    """What rewards of a run are made for."""

    channels: int  # of x0
    size: int  # rows and columns of x0
    to_pixels: Callable[[Tensor], Tensor]  # x0 -> images in [-1, 1], differentiable
    grid: tuple[int, int]  # of patches, for maps
    net: str  # the network of "features" and "tokens"
    teacher: Callable[[], EncoderInfo]  # loads the teacher that "latent" is distilled from
    prompts: Sequence[str]  # a sentence per class, for "clip-text"
    device: torch.device
