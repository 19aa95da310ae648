"""A feature net for tests that has everything a net can have and costs nothing."""

import torch

from bench.nets.base import Activations


class Linear:
    """Fixed random projections of the pixels: 6 pooled and 4 spatial dimensions, 10 classes."""

    name = "inception"
    classifies = True

    def __call__(self, images: torch.Tensor) -> Activations:
        draw = torch.Generator().manual_seed(0)
        x = images.flatten(1).double() / 255
        pooled, spatial, logits = (
            x @ torch.randn(x.shape[1], n, generator=draw).double() for n in (6, 4, 10)
        )
        return Activations(pooled.float(), spatial.float(), unbiased_logits=logits.float())


def random_images(count: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 1, 4, 4), generator=draw, dtype=torch.uint8)
