"""Frozen image encoders by name: images in, patch tokens out."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from bench import grammar
from bench.encoders.local import RECIPES, local_net
from bench.encoders.pretrained import PUBLISHED, Options, PretrainedEncoder
from bench.errors import UserError, unknown
from methods.base import EncoderInfo, Features

PIXELS_PER_TOKEN = 16  # of an image, where nothing else is said: REPA's rule, 16 x 16 tokens for 256 pixels


class Encoder(Protocol):
    """A frozen image encoder."""

    info: EncoderInfo

    def __call__(self, images: Tensor) -> Features:
        """Images [B, C, R, R] uint8 -> features in float32, without gradient."""
        ...


class LocalEncoder:
    """A local net as an encoder: its last map gives the patch tokens, its mean the CLS token."""

    def __init__(self, name: str, image_size: int, device: torch.device) -> None:
        self.net = local_net(name, device)
        grid = image_size // 2
        self.info = EncoderInfo(name, self.net.recipe.widths[-1], (grid, grid))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        output = self.net(images.float() / 127.5 - 1)
        return Features(output.maps[-1].flatten(2).transpose(1, 2), output.pooled)


def names() -> tuple[str, ...]:
    """The encoders that can be asked for."""
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
    name, options = grammar.split(text)
    if name in RECIPES:
        if options:
            raise UserError(f"the encoder {name} takes no options, not {grammar.join('', options)}.")
        return LocalEncoder(name, image_size, device)
    if name not in PUBLISHED:
        raise unknown("encoder", name, names())
    side = image_size // PIXELS_PER_TOKEN
    chosen = grammar.configure(Options, options, f"encoder {name}")
    return PretrainedEncoder(name, chosen, grid or (side, side), device, precision)
