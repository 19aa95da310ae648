"""Interface of rewards: functions of an estimate x^ of the clean image and of the clean image x0 itself.

Higher is better, and every reward is differentiable in x^. A map reward has a value per patch, on the
backbone's grid of tokens; their mean is the reward of the image. All rewards are listed in registry.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, dataclass_transform

import torch
from torch import Tensor

from bench.core import plugin
from methods.base import EncoderInfo


class RewardBatch(NamedTuple):
    """The clean images that estimates are compared with."""

    x0: Tensor  # [B, C, H, W], clean, in model space
    scale: Tensor  # [B], |d x0_hat / d prediction|
    label: Tensor  # [B] int64, the class of x0 (never dropped)


RewardFn = Callable[[Tensor], Mapping[str, Tensor]]  # [G, B, C, H, W] -> name -> [G, B] or [G, B, h, w]


class Reward(Protocol):
    """One or several rewards with a common computation."""

    def bind(self, batch: RewardBatch) -> RewardFn:
        """Rewards of estimates of this batch, differentiable in them, in float32."""
        ...


class RewardContext(NamedTuple):
    """The run that rewards are made for."""

    channels: int  # of x0
    size: int  # rows and columns of x0
    to_pixels: Callable[[Tensor], Tensor]  # x0 -> images in [-1, 1], differentiable
    grid: tuple[int, int]  # of patches, for maps
    net: str  # the network of "features" and "tokens"
    teacher: Callable[[], EncoderInfo]  # loads the teacher that "latent" is distilled from
    prompts: Sequence[str]  # a prompt per class, for "clip-text"
    device: torch.device


@dataclass_transform()
class CustomReward(ABC):
    """Base class of a reward in a Python file, `vrpo[semantic_reward=path/to/my_reward.py]`.

    Subclasses declare options as annotated fields with defaults.
    """

    # Frozen network that it computes with, a name of bench/nets/table.py; "": none. Metrics computed with the
    # same network are marked leaky.
    network: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        dataclass(eq=False)(cls)

    def load(self, context: RewardContext) -> None:  # noqa: B027 (optional)
        """Prepare for a run, for example load a network. Called once."""

    @abstractmethod
    def bind(self, batch: RewardBatch) -> Callable[[Tensor], Tensor]:
        """The reward of estimates of this batch, [G, B, C, H, W] -> [G, B], or [G, B, h, w] per patch.

        Higher is better; differentiable in the estimate, in float32.
        """


class CustomRewards:
    """The rewards of one or several files of the user."""

    def __init__(self, names: Collection[str], context: RewardContext) -> None:
        self.rewards = {name: plugin.configured(name, CustomReward, "reward") for name in names}
        for reward in self.rewards.values():
            reward.load(context)

    def bind(self, batch: RewardBatch) -> RewardFn:
        functions = {name: reward.bind(batch) for name, reward in self.rewards.items()}
        return lambda estimate: {name: function(estimate) for name, function in functions.items()}
