"""Interface of data sets: their shape, their records, and batches of records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, dataclass_transform

if TYPE_CHECKING:
    from torch import Generator, Tensor

ALL = slice(None)


class Shape(NamedTuple):
    """Shape of x0, and number of classes."""

    classes: int
    channels: int
    size: int  # rows and columns of x0


class Batch(NamedTuple):
    """A batch of training records."""

    x0: Tensor  # [B, C, H, W] float32, in model space: pixels in [-1, 1], or latents
    label: Tensor  # [B] int64
    image: Tensor  # [B, C', R, R] uint8, for encoders; may be [0] if not requested
    indices: Tensor  # [B] int64, numbers of the records


class Records(Protocol):
    """The records of an open data set."""

    classes: int
    channels: int  # of x0
    size: int  # rows and columns of x0
    image_size: int  # rows and columns of the images that encoders see

    def __len__(self) -> int:
        """Number of training records."""
        ...

    def batch(self, indices: Tensor, generator: Generator, images: bool = True, rows: slice = ALL) -> Batch:
        """The records with these numbers, on the CPU; `generator` is used to sample latents.

        `images`: whether images are needed in addition to x0. Only `rows` of the records are read and
        returned, with the same values as in the whole batch.
        """
        ...

    def to_pixels(self, x0: Tensor) -> Tensor:
        """Model space [B, C, H, W] -> images [B, C', R, R] in [-1, 1]; differentiable."""
        ...

    def reference(self) -> tuple[Tensor, Tensor]:
        """Reference images [N, C', R, R] uint8 and labels [N], which are never trained on."""
        ...


@dataclass_transform(frozen_default=True)
class CustomDataset(ABC):
    """Base class of a data set in a Python file, `--data path/to/my_data.py[option=value]`.

    Subclasses declare options as annotated fields with defaults. Making an instance must be cheap; images are
    read or made in `open`.
    """

    # As in the TOML files of `presets/`: `teacher`, `reward_net`, `prompts`, and the tables `training` and
    # `protocol`, of which all have defaults.
    preset: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Number of classes, channels, and rows and columns of x0."""

    @abstractmethod
    def open(self) -> Records:
        """The training records and reference images, such as `bench.data.in_memory.InMemory`."""
