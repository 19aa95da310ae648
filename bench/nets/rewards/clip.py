"""Semantic rewards of CLIP (arXiv 2103.00020), through `open_clip`.

    clip-image   cos(E(x^), E(x0)), E the image embedding
    clip-text    cos(E(x^), T(c)), T the embedding of the prompt of x0's class

Latents are decoded first, with gradient. Images are converted to three channels and resized to 224 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core.errors import UserError
from bench.nets import open_clip, weights
from bench.nets.rewards.base import RewardBatch, RewardFn

NETWORK = "clip-vit-b-32"  # of bench/nets/table.py


class CLIP:
    """Cosine similarities [G, B] in [-1, 1] of embeddings of the whole image."""

    def __init__(
        self,
        names: Collection[str],
        net: Any,
        prompts: Tensor | None,
        to_pixels: Callable[[Tensor], Tensor],
    ) -> None:
        """`net` is a CLIP of open_clip, `prompts` the tokens of each class, [classes, L]."""
        self.names, self.net, self.to_pixels = names, net, to_pixels
        with torch.no_grad():
            self.texts = None if prompts is None else F.normalize(net.encode_text(prompts).float(), dim=-1)
        self.side = net.visual.image_size[0]
        self.mean, self.std = (
            torch.tensor(values, device=next(net.parameters()).device).view(3, 1, 1)
            for values in (net.visual.image_mean, net.visual.image_std)
        )

    def bind(self, batch: RewardBatch) -> RewardFn:
        targets = {}
        if "clip-image" in self.names:
            targets["clip-image"] = self._embed(batch.x0)
        if self.texts is not None:
            targets["clip-text"] = self.texts[batch.label]

        def rewards(estimate: Tensor) -> dict[str, Tensor]:
            embedded = self._embed(estimate.flatten(0, 1)).unflatten(0, estimate.shape[:2])
            return {name: (embedded * target).sum(dim=-1) for name, target in targets.items()}

        return rewards

    def _embed(self, images: Tensor) -> Tensor:
        """x0 or estimates of it, [M, C, H, W] in model space -> unit vectors [M, D]."""
        images = self.to_pixels(images)
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        images = F.interpolate(images, (self.side, self.side), mode="bicubic", antialias=True)
        return F.normalize(self.net.encode_image(((images + 1) / 2 - self.mean) / self.std).float(), dim=-1)


def load(
    names: Collection[str],
    to_pixels: Callable[[Tensor], Tensor],
    prompts: Sequence[str],
    device: torch.device,
) -> CLIP:
    """OpenAI's CLIP ViT-B/32, frozen. Raises UserError if weights or prompts are missing."""
    if "clip-text" in names and not prompts:
        raise UserError(
            "the reward clip-text needs a prompt per class: add `prompts` to the data set's preset."
        )
    net = open_clip.build(NETWORK, weights.find(NETWORK)).to(device)
    tokens = open_clip.tokenizer(NETWORK)(list(prompts)).to(device) if "clip-text" in names else None
    return CLIP(names, net, tokens, to_pixels)
