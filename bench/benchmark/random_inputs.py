"""Random inputs in the shape of a data set, so that a step can be timed without its files and encoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from bench.data.base import ALL, Batch, Shape
from bench.nets.base import NO_LAYERS
from methods.base import EncoderInfo, EncoderLayers, Features

CLASSES = 1000  # ImageNet's, which REPA's samplers take for granted
TOKEN_WIDTH = 768  # of DINOv2-B, REPA's teacher


class RandomRecords:
    """Standard normal x0 and uniform labels, the same ones in every batch: reading them costs nothing."""

    def __init__(self, shape: Shape, count: int) -> None:
        """`count`: records, at least a batch of them."""
        draw = torch.Generator().manual_seed(0)
        self.classes, self.channels, self.size = shape
        self.image_size = self.size
        self.x0 = torch.randn(count, self.channels, self.size, self.size, generator=draw)
        self.label = torch.randint(self.classes, (count,), generator=draw)

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, indices: Tensor, generator: Generator, images: bool = True, rows: slice = ALL) -> Batch:
        indices = indices[rows]
        kept = slice(0, len(indices))
        return Batch(self.x0[kept], self.label[kept], torch.empty(len(indices), 0).byte(), indices)

    def to_pixels(self, x0: Tensor) -> Tensor:
        return x0

    def reference(self) -> tuple[Tensor, Tensor]:
        return torch.empty(0), self.label[:0]


class RandomEncoder:
    """Standard normal tokens, the same ones for every batch, on the device: encoding costs nothing."""

    cache = False
    key: dict[str, Any] = {"encoder": "random"}  # noqa: RUF012

    def __init__(self, grid: tuple[int, int], count: int, device: torch.device) -> None:
        """`grid`: rows and columns of tokens; `count`: images, at least a batch of them."""
        self.info = EncoderInfo("random", TOKEN_WIDTH, grid)
        draw = torch.Generator().manual_seed(1)
        self.tokens = torch.randn(count, grid[0] * grid[1], TOKEN_WIDTH, generator=draw).to(device)

    def __call__(self, images: Tensor, layers: EncoderLayers = NO_LAYERS) -> Features:
        tokens = self.tokens[: len(images)]
        return Features(tokens, tokens[:, 0])
