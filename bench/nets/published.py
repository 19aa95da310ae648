"""Base class of published encoders: preparation of images, precision, and identity of the features.

Images are scaled to 0..1, normalised by the mean and standard deviation of the network's training, and then
resized (bicubic, without antialias, as in REPA), so that each token of the backbone has one patch: at 256
pixels and 16 x 16 tokens that is 224 for patches of 14, and 256, no resize, for patches of 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core.files import sha256
from bench.nets.base import EncoderOptions, with_channels
from methods.base import EncoderInfo

Precision = Literal["fp32", "bf16"]  # of matrix products


class PublishedEncoder:
    """A frozen encoder of timm or open_clip: images [B, 1 or 3, R, R] uint8 -> features."""

    info: EncoderInfo

    def __init__(
        self,
        model: str,
        weights: Path,
        options: EncoderOptions,
        size: tuple[int, int],
        statistics: tuple[Sequence[float], Sequence[float]],
        device: torch.device,
        precision: Precision,
    ) -> None:
        """`size`: rows and columns of the network's input; `statistics`: mean and deviation per channel."""
        self.model, self.weights, self.size = model, weights, size
        self.antialias, self.cache = options.antialias, options.cache
        self.device, self.precision = device, precision
        self.mean, self.std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in statistics)

    @property
    def key(self) -> dict[str, Any]:
        """What determines the features of an image, except for the grid."""
        return {
            "encoder": self.model,
            "weights": sha256(self.weights),
            "size": self.size,
            "antialias": self.antialias,
            "precision": self.precision,
        }

    def preprocess(self, images: Tensor) -> Tensor:
        """Images [B, 1 or 3, R, R] uint8 -> [B, 3, *size], normalised, then resized."""
        images = with_channels(images.to(self.device), 3, self.info.name)
        x = (images.float() / 255 - self.mean) / self.std
        if x.shape[-2:] == self.size:
            return x
        return F.interpolate(x, self.size, mode="bicubic", antialias=self.antialias)
