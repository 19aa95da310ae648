"""Interfaces of frozen networks: feature networks give a vector per image, encoders give patch tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, dataclass_transform

import torch
from torch import Tensor

from backbones.weights import foreign_content
from bench.core.errors import UserError
from methods.base import EncoderInfo, EncoderLayers, Features

NO_LAYERS = EncoderLayers()


class Activations(NamedTuple):
    """Output of a feature network."""

    pooled: Tensor  # [B, D] float32, the space of distances and neighbours
    spatial: Tensor | None = None  # [B, S], spatial, for sFID
    logits: Tensor | None = None  # [B, classes] of the data set, for the accuracy of the requested class
    unbiased_logits: Tensor | None = None  # [B, K], for the Inception Score


class FeatureNet(Protocol):
    """A frozen network whose features are used by metrics."""

    name: str
    classifies: bool  # trained to classify: its Frechet distance is called fid, another network's fd

    def __call__(self, images: Tensor) -> Activations:
        """Images [B, C, H, W] uint8, on any device. Raises UserError for channels that it cannot take."""
        ...


class Encoder(Protocol):
    """A frozen image encoder, for methods."""

    info: EncoderInfo
    cache: bool  # whether features of the data set are cached on disk

    @property
    def key(self) -> dict[str, Any]:
        """What determines the features of an image, except for the grid; JSON."""
        ...

    def __call__(self, images: Tensor, layers: EncoderLayers = NO_LAYERS) -> Features:
        """Images [B, C, R, R] uint8 -> features in float32, without gradient.

        Raises:
            UserError: for `layers` that the encoder does not have.
        """
        ...


@dataclass_transform(frozen_default=True)
class CustomEncoder(ABC):
    """Base class of an encoder in a Python file, `repa[encoder=path/to/my_encoder.py]`.

    Subclasses declare options as annotated fields with defaults.
    """

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    @abstractmethod
    def describe(self, image_size: int, grid: tuple[int, int]) -> EncoderInfo:
        """Width, grid and layers for images [C, image_size, image_size], without loading weights.

        `grid`: rows and columns of the backbone's tokens; REPA and most methods refuse any other.
        """

    @abstractmethod
    def load(
        self, image_size: int, grid: tuple[int, int], device: torch.device
    ) -> Callable[[Tensor, EncoderLayers], Features]:
        """A function of images [B, C, R, R] uint8 that returns float32 features, without gradient.

        Layers are only requested if `describe` returns their number. Raises UserError for absent weights.
        """


@dataclass(frozen=True)
class EncoderOptions:
    """Options in brackets after the name of a published encoder."""

    weights: str = ""  # a file, or a folder in the hub's format; "": the caches
    antialias: bool = False  # of the resize
    cache: bool = False  # keep the features of the data set on disk: feature_cache.py
    compile: bool = False  # use torch.compile: minutes at the start, then faster on a GPU


class WholeImage(NamedTuple):
    """A published network that gives one vector per image, and its preprocessing."""

    encode: Callable[[Tensor], Tensor]  # [B, 3, *size] normalised -> [B, D]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def with_channels(images: Tensor, channels: int, name: str) -> Tensor:
    """Images [B, C, H, W] with the number of channels of a network; grey images are repeated to three.

    Raises:
        UserError: for any other difference.
    """
    found = images.shape[1]
    if found == channels:
        return images
    if found == 1:
        return images.expand(-1, channels, -1, -1)
    takes = {1: "1 channel", 3: "1 or 3 channels"}.get(channels, f"{channels} channels")
    raise UserError(
        f"{name} takes images of {takes}, these have {found}: convert them, or leave that network out."
    )


def same_width(a: Tensor, b: Tensor) -> None:
    """Raises UserError if features [N, D] and [M, E] have different dimensions."""
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"some images give {a.shape[1]} features and others {b.shape[1]}: they are of several sizes, and "
            "a network that takes them as they are cannot compare them. Resize them, or leave it out."
        )


def join(batches: Sequence[Activations]) -> Activations:
    """Concatenation of the activations of several batches of a network.

    Raises:
        UserError: if their dimensions differ.
    """
    for batch in batches:
        same_width(batches[0].pooled, batch.pooled)
    fields = zip(*batches, strict=True)
    return Activations(*(None if parts[0] is None else torch.cat(parts) for parts in fields))  # type: ignore


def first_line(error: Exception) -> str:
    """The first line of the message of an error, or its type if it has none; see `foreign_content`."""
    return foreign_content(error) or (str(error).strip() or type(error).__name__).splitlines()[0]
