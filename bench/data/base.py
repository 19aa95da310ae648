"""What every data set gives: its shape, its records, batches of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor

ALL = slice(None)


class Shape(NamedTuple):
    """What a backbone must know of a data set."""

    classes: int
    channels: int
    size: int  # rows and columns of x0


class Batch(NamedTuple):
    """Some training records."""

    x0: Tensor  # [B, C, H, W] float32, what the backbone learns to generate: pixels in [-1, 1], or latents
    label: Tensor  # [B] int64
    image: Tensor  # [B, C', R, R] uint8, for encoders; [0] if not asked for and not free
    indices: Tensor  # [B] int64, the records' own numbers


class Records(Protocol):
    """The records of an open data set, however they are stored."""

    classes: int
    channels: int  # of x0
    size: int  # rows and columns of x0
    image_size: int  # rows and columns of the images that encoders see

    def __len__(self) -> int:
        """Training records."""
        ...

    def batch(self, indices: Tensor, generator: Generator, images: bool = True, rows: slice = ALL) -> Batch:
        """The records of these numbers, on the CPU; `generator` draws what is random in them (latents).

        `images`: whether the images are wanted beside x0. Only `rows` of the records are read and returned,
        the same as they are in the whole batch.
        """
        ...

    def to_pixels(self, x0: Tensor) -> Tensor:
        """Model space [B, C, H, W] -> images [B, C', R, R], meant to be in [-1, 1]; differentiable."""
        ...

    def reference(self) -> tuple[Tensor, Tensor]:
        """Images [N, C', R, R] uint8 and labels [N] that samples are compared with; never trained on."""
        ...
