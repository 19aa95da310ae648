"""LPIPS (arXiv 1801.03924) of the `lpips` package: learned heads on an ImageNet network of torchvision.

    r = -sum_l mean over positions of w_l . (f_l(x^) - f_l(x0))^2,   f_l normalised at each position

Latents are decoded first, with gradient. Images are converted to three channels and enlarged to at least 64
pixels, as AlexNet requires. The heads are part of the package; weights of the networks are read from torch's
hub folder.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.nets import weights
from bench.nets.rewards.base import RewardBatch, RewardFn

SMALLEST_SIDE = 64  # pixels


class LPIPS:
    """Minus the LPIPS distance to x0, [G, B] in (-inf, 0]."""

    def __init__(
        self, names: Collection[str], to_pixels: Callable[[Tensor], Tensor], device: torch.device
    ) -> None:
        """Names are `lpips-NET`. Raises UserError if weights are missing."""
        self.nets = {name: _load(name, device) for name in names}
        self.to_pixels = to_pixels

    def bind(self, batch: RewardBatch) -> RewardFn:
        pixels = self.to_pixels(batch.x0)
        clean = {name: _maps(net, pixels) for name, net in self.nets.items()}

        def rewards(estimate: Tensor) -> dict[str, Tensor]:
            groups, images, found = estimate.shape[:2], self.to_pixels(estimate.flatten(0, 1)), {}
            for name, net in self.nets.items():
                distance = torch.zeros(groups, device=estimate.device)
                for x, y, head in zip(_maps(net, images), clean[name], net.lins, strict=True):
                    squares = (x.unflatten(0, groups) - y).square().flatten(0, 1)
                    distance = distance + head(squares).mean(dim=(1, 2, 3)).view(groups)
                found[name] = -distance
            return found

        return rewards


def _load(name: str, device: torch.device) -> Any:
    weights.find(name)  # where torchvision looks for it
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package uses a deprecated interface of torchvision
        net = lpips.LPIPS(net=name.removeprefix("lpips-"), verbose=False)
    return net.eval().requires_grad_(False).to(device)


def _maps(net: Any, images: Tensor) -> list[Tensor]:
    """The normalised feature maps of images [M, C, H, W] in [-1, 1]."""
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    if images.shape[-1] < SMALLEST_SIDE:
        images = F.interpolate(images, (SMALLEST_SIDE, SMALLEST_SIDE), mode="bilinear", antialias=True)
    return [F.normalize(x, dim=1, eps=1e-10) for x in net.net(net.scaling_layer(images))]
