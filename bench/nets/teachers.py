"""Frozen image encoders by name: images in, patch tokens out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core import grammar
from bench.core.errors import unknown
from bench.nets import open_clip, timm
from bench.nets.local import RECIPES, local_net
from bench.nets.timm import PUBLISHED, Options, PretrainedEncoder
from methods.base import EncoderInfo, Features

PIXELS_PER_TOKEN = 16  # of an image, where nothing else is said: REPA's rule, 16 x 16 tokens for 256 pixels


class Encoder(Protocol):
    """A frozen image encoder."""

    info: EncoderInfo
    cache: bool  # whether the features of a data set shall be kept on disk

    @property
    def key(self) -> dict[str, Any]:
        """What decides the features of an image, but for the grid; JSON."""
        ...

    def __call__(self, images: Tensor) -> Features:
        """Images [B, C, R, R] uint8 -> features in float32, without gradient."""
        ...


@dataclass(frozen=True)
class LocalOptions:
    """What rides in brackets behind the name of a local net."""

    cache: bool = False  # keep the features of the data set on disk: feature_cache.py


class LocalEncoder:
    """A local net as an encoder: its last map gives the patch tokens, its mean the CLS token.

    Where a coarser grid is asked for, which divides the map's, places are averaged.
    """

    def __init__(
        self,
        name: str,
        options: LocalOptions,
        image_size: int,
        grid: tuple[int, int] | None,
        device: torch.device,
    ) -> None:
        self.net, self.device, self.cache = local_net(name, device), device, options.cache
        side = image_size >> len(self.net.recipe.pool_after)
        self.stride = side // grid[0] if grid and side % grid[0] == 0 else 1
        side //= self.stride
        self.info = EncoderInfo(name, self.net.recipe.widths[-1], (side, side))

    @property
    def key(self) -> dict[str, Any]:
        weights = self.net.state_dict().values()
        return {"encoder": self.info.name, "weights": float(sum(w.double().abs().sum() for w in weights))}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        output = self.net(images.to(self.device).float() / 127.5 - 1)
        tokens = F.avg_pool2d(output.maps[-1], self.stride) if self.stride > 1 else output.maps[-1]
        return Features(tokens.flatten(2).transpose(1, 2), output.pooled)


def names() -> tuple[str, ...]:
    """The encoders that can be asked for, beside open_clip's `clip:ARCHITECTURE/TAG`."""
    return (*RECIPES, *PUBLISHED)


def load(
    text: str,
    image_size: int,
    device: torch.device,
    *,
    grid: tuple[int, int] | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Encoder:
    """The encoder of that name, `dinov2-b[weights=PATH]`, for square images of that size.

    `grid`: rows and columns of tokens to give, where the encoder can choose; None: a token for every 16 x 16
    pixels. `precision`: of a published encoder's matrix products.

    Raises UserError for an unknown name or option, and for weights that cannot be had.
    """
    name, options = _named(text)
    if isinstance(options, LocalOptions):
        return LocalEncoder(name, options, image_size, grid, device)
    side = image_size // PIXELS_PER_TOKEN
    made = PretrainedEncoder if name in PUBLISHED else open_clip.OpenClipEncoder
    return made(name, options, grid or (side, side), device, precision)


def require(text: str) -> None:
    """Raises UserError as `load` would for the name, its options and absent weights, but loads nothing."""
    name, options = _named(text)
    if isinstance(options, Options):
        (timm.locate if name in PUBLISHED else open_clip.locate)(name, options.weights)


def _named(text: str) -> tuple[str, LocalOptions | Options]:
    name, options = grammar.split(text)
    if name in RECIPES:
        return name, grammar.configure(LocalOptions, options, f"encoder {name}")
    if name not in PUBLISHED and not name.startswith(open_clip.PREFIX):
        raise unknown("encoder", name, (*names(), f"{open_clip.PREFIX}ARCHITECTURE/TAG"))
    return name, grammar.configure(Options, options, f"encoder {name}")
