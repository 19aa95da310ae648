"""Registry of rewards. Costs are per estimate with gradient; terms of x0 are computed once.

    name             what                                                     range      map  cost
    x0               - mean square error of x^                                (-inf, 0]  yes  none
    velocity         - mean square error of the prediction that x^ implies    (-inf, 0]  yes  none
    features         - distance of a reward network's maps before the last    [-4, 0]    yes  the network
    tokens           cosine with x0 on the reward network's last map          [-1, 1]    yes  shared
    lpips-NET        - LPIPS, NET alex, vgg or squeeze, on pixels             (-inf, 0]  no   NET, 64 pixels*
    clip-image       cosine of CLIP's image embeddings                        [-1, 1]    no   ViT-B/32, 224*
    clip-text        cosine with CLIP's embedding of the class prompt         [-1, 1]    no   shared*
    latent           cosine of a small student's tokens with the teacher's    [-1, 1]    yes  the student

* For latents, in addition: forward and backward pass of the decoder of the VAE; see VRPO's option `share`.

All of them are dimensionless, except for the squared errors (model space, and model space over t).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from bench.core import plugin
from bench.core.errors import unknown
from bench.nets.local import local_net
from bench.nets.rewards import clip
from bench.nets.rewards.base import CustomReward, CustomRewards, Reward, RewardBatch, RewardContext
from bench.nets.rewards.fidelity import SquaredErrors
from bench.nets.rewards.local import NetRewards
from bench.nets.rewards.lpips import LPIPS
from bench.nets.rewards.student import Student


def _errors(names: Collection[str], context: RewardContext) -> Reward:
    return SquaredErrors(names, context.grid)


def _net(names: Collection[str], context: RewardContext) -> Reward:
    return NetRewards(names, local_net(context.net, context.device), context.grid)


def _lpips(names: Collection[str], context: RewardContext) -> Reward:
    return LPIPS(names, context.to_pixels, context.device)


def _clip(names: Collection[str], context: RewardContext) -> Reward:
    return clip.load(names, context.to_pixels, context.prompts, context.device)


def _student(_names: Collection[str], context: RewardContext) -> Reward:
    info = context.teacher()
    return Student(context.channels, context.size, info.grid, info.width, context.device)


CHOSEN, TEACHER = "the method's reward network", "the method's first encoder"


class Entry(NamedTuple):
    """A reward: its constructor, shared by all names with the same one, and its network."""

    make: Callable[[Collection[str], RewardContext], Reward]
    network: str = ""  # a name of bench/nets/table.py, or CHOSEN, TEACHER; "": none


REWARDS = {
    "x0": Entry(_errors),
    "velocity": Entry(_errors),
    "features": Entry(_net, CHOSEN),
    "tokens": Entry(_net, CHOSEN),
    "lpips-alex": Entry(_lpips, "lpips-alex"),
    "lpips-vgg": Entry(_lpips, "lpips-vgg"),
    "lpips-squeeze": Entry(_lpips, "lpips-squeeze"),
    "clip-image": Entry(_clip, clip.NETWORK),
    "clip-text": Entry(_clip, clip.NETWORK),
    "latent": Entry(_student, TEACHER),
}


def entry(name: str) -> Entry:
    """The reward of that name, or of a Python file. Raises UserError for an unknown one."""
    if plugin.is_file(name):
        return Entry(CustomRewards, plugin.configured(name, CustomReward, "reward").network)
    if name not in REWARDS:
        raise unknown("reward", name, REWARDS)
    return REWARDS[name]


class Rewards:
    """Several rewards of a run.

    Raises:
        UserError: for an unknown name, and if weights are missing.
    """

    def __init__(self, names: Collection[str], context: RewardContext) -> None:
        shared: dict[Callable[[Collection[str], RewardContext], Reward], list[str]] = {}
        for name in names:
            shared.setdefault(entry(name).make, []).append(name)
        self.rewards = [make(own, context) for make, own in shared.items()]

    @property
    def student(self) -> Student | None:
        """The reward model that is trained with the run, if "latent" is among the rewards."""
        return next((reward for reward in self.rewards if isinstance(reward, Student)), None)

    def bind(self, batch: RewardBatch) -> Callable[[Tensor, Tensor], Mapping[str, Tensor]]:
        """The rewards of a batch, as a function of estimates [..., n, C, H, W] of x0[index], and index [n].

        It returns name -> [..., n], or [..., n, h, w] for a map reward, differentiable in the estimate, in
        float32. Only the samples in `index` are computed.
        """

        def rewards(estimate: Tensor, index: Tensor) -> dict[str, Tensor]:
            chosen = RewardBatch(batch.x0[index].float(), batch.scale[index], batch.label[index])
            groups = estimate.shape[:-4]
            flat = estimate.float().reshape(groups.numel(), *chosen.x0.shape)  # [G, n, C, H, W]
            with torch.autocast(estimate.device.type, enabled=False):
                with torch.no_grad():
                    functions = [reward.bind(chosen) for reward in self.rewards]
                found = {name: value for function in functions for name, value in function(flat).items()}
            return {name: value.reshape(*groups, *value.shape[1:]) for name, value in found.items()}

        return rewards
