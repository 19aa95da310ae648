"""Teachers: frozen image encoders by name, which map images to patch tokens."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core import grammar, plugin
from bench.core.errors import UserError
from bench.nets import open_clip, table, timm, weights
from bench.nets.base import NO_LAYERS, CustomEncoder, Encoder, EncoderOptions, with_channels
from bench.nets.layers import refuse
from bench.nets.local import local_net
from bench.nets.open_clip import OpenClipEncoder
from bench.nets.recipes import RECIPES, ConvolutionalRecipe, TransformerRecipe
from bench.nets.timm import TimmEncoder
from methods.base import EncoderInfo, EncoderLayers, Features

PIXELS_PER_TOKEN = 16  # default, as in REPA: 16 x 16 tokens for 256 pixels


@dataclass(frozen=True)
class LocalOptions:
    """Options in brackets after the name of a local network."""

    cache: bool = False  # keep the features of the data set on disk: feature_cache.py


class LocalEncoder:
    """A local network as an encoder."""

    def __init__(
        self,
        name: str,
        options: LocalOptions,
        image_size: int,
        grid: tuple[int, int] | None,
        device: torch.device,
    ) -> None:
        self.net, self.device, self.cache = local_net(name, device), device, options.cache
        self.info = describe_local(name, image_size, grid)

    @property
    def key(self) -> dict[str, Any]:
        """What determines the features of an image, except for the grid."""
        weights = self.net.state_dict().values()
        return {"encoder": self.info.name, "weights": float(sum(w.double().abs().sum() for w in weights))}

    @torch.no_grad()
    def __call__(self, images: Tensor, layers: EncoderLayers = NO_LAYERS) -> Features:
        """Images [B, C, R, R] uint8 -> features in float32. Raises UserError for layers it does not have."""
        refuse(self.info, layers)
        images = with_channels(images.to(self.device), self.net.channels, self.info.name)
        return self.features(images.float() / 127.5 - 1, layers)

    @abstractmethod
    def features(self, x: Tensor, layers: EncoderLayers) -> Features:
        """Features of images [B, C, R, R] in [-1, 1]."""


class ConvolutionalEncoder(LocalEncoder):
    """Positions of the last feature map are the patch tokens, their mean is the class token.

    If the requested grid is coarser and divides that of the map, positions are averaged.
    """

    def features(self, x: Tensor, layers: EncoderLayers) -> Features:
        output = self.net(x)
        tokens = output.maps[-1]
        stride = tokens.shape[-1] // self.info.grid[1]
        tokens = F.avg_pool2d(tokens, stride) if stride > 1 else tokens
        return Features(tokens.flatten(2).transpose(1, 2), output.pooled)


class TransformerEncoder(LocalEncoder):
    """A vision transformer, on the grid of its patches."""

    def features(self, x: Tensor, layers: EncoderLayers) -> Features:
        transformer: Any = self.net.transformer
        return timm.tokens(transformer, x, layers, self.info, transformer.forward_features)


class EncoderFromFile:
    """An encoder in a Python file of the user's."""

    cache = False

    def __init__(
        self, text: str, encoder: CustomEncoder, image_size: int, grid: tuple[int, int], device: torch.device
    ) -> None:
        self.text, self.device = text, device
        self.info = encoder.describe(image_size, grid)._replace(name=text)
        self.encode = encoder.load(image_size, grid, device)

    @property
    def key(self) -> dict[str, Any]:
        return {"encoder": plugin.identity(self.text, CustomEncoder, "encoder")}

    @torch.no_grad()
    def __call__(self, images: Tensor, layers: EncoderLayers = NO_LAYERS) -> Features:
        refuse(self.info, layers)
        return self.encode(images.to(self.device), layers)


def describe_local(name: str, image_size: int, grid: tuple[int, int] | None = None) -> EncoderInfo:
    """Properties of a local encoder, without its weights; `grid` as in `load`."""
    recipe = RECIPES[name]
    if isinstance(recipe, TransformerRecipe):
        side = image_size // recipe.patch
        return EncoderInfo(name, recipe.width, (side, side), recipe.depth, recipe.heads)
    assert isinstance(recipe, ConvolutionalRecipe)
    side = image_size >> len(recipe.pool_after)
    if grid and side % grid[0] == 0:
        side = grid[0]
    return EncoderInfo(name, recipe.widths[-1], (side, side), class_token=False)


def names() -> tuple[str, ...]:
    """The encoders of the table; there are also `timm:MODEL`, `clip:ARCHITECTURE/TAG` and Python files."""
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

    Args:
        text: name with options.
        image_size: rows and columns of the images.
        device: of the network and the features.
        grid: rows and columns of tokens, for encoders that can choose; None: a token per 16 x 16 pixels.
        precision: of the matrix products of published encoders.

    Raises:
        UserError: an unknown name or option, or absent weights.
    """
    name, options = _parsed(text)
    if isinstance(options, CustomEncoder):
        return EncoderFromFile(text, options, image_size, grid or _usual_grid(image_size), device)
    if isinstance(options, LocalOptions):
        vit = isinstance(RECIPES[name], TransformerRecipe)
        made = TransformerEncoder if vit else ConvolutionalEncoder
        return made(name, options, image_size, grid, device)
    made = TimmEncoder if table.network(name).library == "timm" else OpenClipEncoder
    return made(name, options, grid or _usual_grid(image_size), device, precision)


def describe(text: str, image_size: int, grid: tuple[int, int] | None = None) -> EncoderInfo:
    """The `info` of the encoder that `load` would give, without its weights. Raises UserError as `load`."""
    name, options = _parsed(text)
    if isinstance(options, CustomEncoder):
        return options.describe(image_size, grid or _usual_grid(image_size))._replace(name=text)
    if isinstance(options, LocalOptions):
        return describe_local(name, image_size, grid)
    library = timm if table.network(name).library == "timm" else open_clip
    return library.describe(name, grid or _usual_grid(image_size))


def _usual_grid(image_size: int) -> tuple[int, int]:
    return (image_size // PIXELS_PER_TOKEN, image_size // PIXELS_PER_TOKEN)


def require(text: str) -> None:
    """Raises UserError as `load` would for the name, its options and absent weights, but loads nothing."""
    name, options = _parsed(text)
    if isinstance(options, EncoderOptions):
        weights.find(name, options.weights, f"or name a file: {name}[weights=PATH]")


def _parsed(text: str) -> tuple[str, LocalOptions | EncoderOptions | CustomEncoder]:
    name, options = grammar.split(text)
    if plugin.is_file(name):
        return name, plugin.configured(text, CustomEncoder, "encoder")
    library = table.network(name, "encoder", names()).library
    if library == "local":
        return name, grammar.configure(LocalOptions, options, f"encoder {name}")
    if library not in ("timm", "open_clip"):
        raise UserError(
            f"{name} gives no patch tokens: it cannot be an encoder; there are {', '.join(names())}."
        )
    return name, grammar.configure(EncoderOptions, options, f"encoder {name}")
