"""Feature nets by name: images in, the numbers that metrics compare out.

    pixels       the image itself, 0..1, flattened
    random-conv  a convolutional net with fixed random weights: unrelated to any net that was ever trained
    digits-cnn   a small classifier of the embedded data set, never the one that teaches
    inception    the net of the ADM suite (inception.py)
    clean, legacy-pytorch, legacy-tensorflow   clean-fid's (inception.py)
    dinov2-b     and any other encoder of timm or open_clip (pretrained.py)

The first three need no download.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core.errors import UserError, unknown
from bench.core.seeding import generator
from bench.nets.base import Activations, FeatureNet
from bench.nets.inception import AdmInception, CleanFid
from bench.nets.local import RECIPES, local_net
from bench.nets.pretrained import ALIASES, PretrainedEncoder

_OWN = ("pixels", "random-conv")


def names() -> tuple[str, ...]:
    """The feature nets that can be asked for, beside `timm:NAME` and `clip:ARCH/TAG`."""
    return (*_OWN, *RECIPES, AdmInception.name, *CleanFid.MODES, *ALIASES)


def feature_net(name: str, device: torch.device | str = "cpu", weights: Path | None = None) -> FeatureNet:
    """The net of that name, ready to use; `weights` is a file to take instead of the library's cached one.

    Raises UserError for an unknown net, and for weights that are absent or of another net.
    """
    if weights and name in (*_OWN, *RECIPES):
        raise UserError(f"the feature net {name} takes no file of weights.")
    if name == "pixels":
        return Pixels()
    if name == "random-conv":
        return RandomConv(device)
    if name in RECIPES:
        return LocalClassifier(name, device)
    if name == AdmInception.name:
        return AdmInception(device, weights)
    if name in CleanFid.MODES:
        return CleanFid(name, device, weights)
    if name in ALIASES or name.startswith(("timm:", "clip:")):
        return PretrainedEncoder(name, device, weights)
    raise unknown("feature net", name, names())


class Pixels:
    """The image itself."""

    name = "pixels"
    classifies = False

    def __call__(self, images: Tensor) -> Activations:
        return Activations(images.flatten(1).float() / 255)


class RandomConv:
    """3x3 convolutions with fixed random weights; the map is halved down to 4x4, then averaged to 2x2.

    Any image size and 1 or 3 channels; always 4 * WIDTH = 128 dimensions. Random features of this kind tell
    distributions of images apart without the taste of a trained net (compare Naeem et al. 2020, section 4).
    """

    name = "random-conv"
    classifies = False
    WIDTH = 32

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Activations:
        x = images.to(self.device).float() / 127.5 - 1
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        x, depth = self._layer(x, depth=0), 1
        while min(x.shape[-2:]) > 4:
            x, depth = self._layer(F.avg_pool2d(x, 2), depth), depth + 1
        return Activations(F.adaptive_avg_pool2d(x, 2).flatten(1))

    def _layer(self, x: Tensor, depth: int) -> Tensor:
        draw = generator(0, "random-conv", depth)
        fan_in = 9 * x.shape[1]
        weight = torch.randn(self.WIDTH, x.shape[1], 3, 3, generator=draw) * (2 / fan_in) ** 0.5
        bias = torch.randn(self.WIDTH, generator=draw) / 4  # without it contrast would only scale features
        return F.relu(F.conv2d(x, weight.to(x.device), bias.to(x.device), padding=1))


class LocalClassifier:
    """A net of `bench/nets/local.py` as a judge."""

    classifies = True

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        self.name, self.device = name, device
        self.net = local_net(name, device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Activations:
        output = self.net(images.to(self.device).float() / 127.5 - 1)
        return Activations(output.pooled, logits=output.logits)
