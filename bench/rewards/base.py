"""Rewards of a clean-image estimate x^, judged against the clean image x0 that it estimates.

Higher is better. "Map" rewards say how good every patch is, on the backbone's grid of tokens; their mean is
the reward of the image. Costs are of one estimate with its gradient; what is needed of x0 is computed once.

    name             what                                                     range      map  cost
    x0               - mean square error of x^                                (-inf, 0]  yes  none
    velocity         - mean square error of the prediction that x^ implies    (-inf, 0]  yes  none
    features         - distance of a reward net's maps before the last        [-4, 0]    yes  the net, shared
    tokens           cosine with x0 on the reward net's last map              [-1, 1]    yes  the net, shared
    lpips-NET        - LPIPS, NET alex, vgg or squeeze, on pixels             (-inf, 0]  no   NET, 64 pixels*
    clip-image       cosine of CLIP's image embeddings                        [-1, 1]    no   ViT-B/32, 224*
    clip-text        cosine with CLIP's embedding of the class prompt         [-1, 1]    no   shared*
    latent           cosine of a small student's tokens with the teacher's    [-1, 1]    yes  the student

* For latents, besides: the decoder of the data set's VAE, forward and backward; see VRPO's option `share`.

All of them are without unit, but for the square errors (model space, and model space over t).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from bench.core.errors import unknown
from methods.base import EncoderInfo

if TYPE_CHECKING:
    from bench.rewards.student import Student


class Truth(NamedTuple):
    """What estimates of a batch are judged against."""

    x0: Tensor  # [B, C, H, W], clean, in model space
    scale: Tensor  # [B], |d x0_hat / d prediction|
    label: Tensor  # [B] int64, the class of x0 (never dropped)


Judge = Callable[[Tensor], Mapping[str, Tensor]]  # [G, B, C, H, W] -> name -> [G, B] or [G, B, h, w]


class Family(Protocol):
    """Rewards that share their computation."""

    def against(self, truth: Truth) -> Judge:
        """Rewards of estimates, differentiable in them, in float32."""
        ...


class Setting(NamedTuple):
    """What rewards are computed on."""

    channels: int  # of x0
    size: int  # rows and columns of x0
    to_pixels: Callable[[Tensor], Tensor]  # x0 -> images in [-1, 1], differentiable
    grid: tuple[int, int]  # of patches, for maps
    net: str  # reward net of "features" and "tokens"
    teacher: Callable[[], EncoderInfo]  # loads the teacher that "latent" is distilled from
    prompts: Sequence[str]  # a sentence a class, for "clip-text"
    device: torch.device


def _errors(names: Collection[str], setting: Setting) -> Family:
    from bench.rewards.fidelity import Errors

    return Errors(names, setting.grid)


def _net(names: Collection[str], setting: Setting) -> Family:
    from bench.nets.local import local_net
    from bench.rewards.local import NetRewards

    return NetRewards(names, local_net(setting.net, setting.device), setting.grid)


def _perceptual(names: Collection[str], setting: Setting) -> Family:
    from bench.rewards.lpips import LPIPS

    return LPIPS(names, setting.to_pixels, setting.device)


def _clip(names: Collection[str], setting: Setting) -> Family:
    from bench.rewards import clip

    return clip.load(names, setting.to_pixels, setting.prompts, setting.device)


def _student(names: Collection[str], setting: Setting) -> Family:
    from bench.rewards.student import Student

    info = setting.teacher()
    return Student(setting.channels, setting.size, info.grid, info.width, setting.device)


# Name -> what makes its family; names of one family share an instance.
FAMILIES: dict[str, Callable[[Collection[str], Setting], Family]] = {
    "x0": _errors,
    "velocity": _errors,
    "features": _net,
    "tokens": _net,
    "lpips-alex": _perceptual,
    "lpips-vgg": _perceptual,
    "lpips-squeeze": _perceptual,
    "clip-image": _clip,
    "clip-text": _clip,
    "latent": _student,
}


class Rewards:
    """The rewards of those names, ready to use.

    Raises UserError for an unknown name, and where weights are missing.
    """

    def __init__(self, names: Collection[str], setting: Setting) -> None:
        makers: dict[Callable[[Collection[str], Setting], Family], list[str]] = {}
        for name in names:
            if name not in FAMILIES:
                raise unknown("reward", name, FAMILIES)
            makers.setdefault(FAMILIES[name], []).append(name)
        self.families = {make: make(own, setting) for make, own in makers.items()}

    @property
    def student(self) -> Student | None:
        """The reward model that learns with the run, if "latent" is among the rewards."""
        return cast("Student | None", self.families.get(_student))

    def against(self, truth: Truth) -> Callable[[Tensor, Tensor], Mapping[str, Tensor]]:
        """The rewards of a batch: a function of estimates [..., n, C, H, W] of x0[index], and index [n].

        It gives name -> [..., n], or [..., n, h, w] for a map reward, differentiable in the estimate, in
        float32. Only the samples of `index` are computed, their clean images included.
        """

        def rewards(estimate: Tensor, index: Tensor) -> dict[str, Tensor]:
            chosen = Truth(truth.x0[index].float(), truth.scale[index], truth.label[index])
            groups = estimate.shape[:-4]
            flat = estimate.float().reshape(groups.numel(), *chosen.x0.shape)  # [G, n, C, H, W]
            with torch.autocast(estimate.device.type, enabled=False):
                with torch.no_grad():
                    judges = [family.against(chosen) for family in self.families.values()]
                found = {name: value for judge in judges for name, value in judge(flat).items()}
            return {name: value.reshape(*groups, *value.shape[1:]) for name, value in found.items()}

        return rewards
