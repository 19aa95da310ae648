"""The sample grid of an evaluation: its first samples as one PNG.

A place in the grid has the same noise and label for all methods.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ROWS, COLUMNS = 4, 10
REAL = "real.png"  # next to the grids: a row of training images of the classes of the first row
MARGIN = 2  # pixels around each image
SMALLEST = 48  # pixels; smaller images are enlarged by a whole factor


def name(step: int) -> str:
    """File name of the grid of an evaluation."""
    return f"step-{step:08d}.png"


def save(images: Tensor, path: Path) -> None:
    """Write images [B, C, R, R] uint8, at most ROWS * COLUMNS of them."""
    import torch.nn.functional as F
    from torchvision.utils import make_grid, save_image

    from bench.core.files import replacing

    size = images.shape[-1] * max(1, SMALLEST // images.shape[-1])
    shown = F.interpolate(images[: ROWS * COLUMNS], size=size, mode="nearest")
    with replacing(path) as unfinished:
        save_image(make_grid(shown.float() / 255, nrow=COLUMNS, padding=MARGIN, pad_value=1.0), unfinished)


def first_row(grid: np.ndarray) -> np.ndarray:
    """The first row of square images of a grid [H, W, 3]."""
    return grid[: (grid.shape[1] - MARGIN) // COLUMNS + MARGIN]
