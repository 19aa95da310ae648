"""Teachers: frozen image encoders by name; images in, patch tokens out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core import grammar
from bench.core.errors import UserError
from bench.nets import table, weights
from bench.nets.base import Encoder, EncoderOptions, with_channels
from bench.nets.local import local_net
from bench.nets.open_clip import OpenClipEncoder
from bench.nets.timm import TimmEncoder
from methods.base import EncoderInfo, Features

PIXELS_PER_TOKEN = 16  # of an image, where nothing else is said: REPA's rule, 16 x 16 tokens for 256 pixels


@dataclass(frozen=True)
class LocalOptions:
    """Options in brackets after the name of a local network."""

    cache: bool = False  # keep the features of the data set on disk: feature_cache.py


class LocalEncoder:
    """A local network as an encoder: its last map gives the patch tokens, its mean the CLS token.

    If a coarser grid is asked for, which divides the map's, places are averaged.
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
        images = with_channels(images.to(self.device), self.net.channels, self.info.name)
        output = self.net(images.float() / 127.5 - 1)
        tokens = F.avg_pool2d(output.maps[-1], self.stride) if self.stride > 1 else output.maps[-1]
        return Features(tokens.flatten(2).transpose(1, 2), output.pooled)


def names() -> tuple[str, ...]:
    """The encoders of the table; besides, there are `timm:MODEL` and `clip:ARCHITECTURE/TAG`."""
    return table.names("local", "timm", "open_clip")


def load(
    text: str,
    image_size: int,
    device: torch.device,
    *,
    grid: tuple[int, int] | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Encoder:
    """The encoder of that name, `dinov2-b[weights=PATH]`, for square images of that size.

    `grid`: rows and columns of tokens to give, if the encoder can choose; None: a token for every 16 x 16
    pixels. `precision`: of a published encoder's matrix products.

    Raises UserError for an unknown name or option, and for weights that are absent.
    """
    name, options = _parsed(text)
    if isinstance(options, LocalOptions):
        return LocalEncoder(name, options, image_size, grid, device)
    side = image_size // PIXELS_PER_TOKEN
    made = TimmEncoder if table.network(name).library == "timm" else OpenClipEncoder
    return made(name, options, grid or (side, side), device, precision)


def require(text: str) -> None:
    """Raises UserError as `load` would for the name, its options and absent weights, but loads nothing."""
    name, options = _parsed(text)
    if isinstance(options, EncoderOptions):
        weights.find(name, options.weights, f"or name a file: {name}[weights=PATH]")


def _parsed(text: str) -> tuple[str, LocalOptions | EncoderOptions]:
    name, options = grammar.split(text)
    library = table.network(name, "encoder", names()).library
    if library == "local":
        return name, grammar.configure(LocalOptions, options, f"encoder {name}")
    if library not in ("timm", "open_clip"):
        raise UserError(
            f"{name} gives no patch tokens: it cannot be an encoder; there are {', '.join(names())}."
        )
    return name, grammar.configure(EncoderOptions, options, f"encoder {name}")
