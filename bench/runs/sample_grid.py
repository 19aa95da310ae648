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
    import torch
    from PIL import Image

    from bench.core.files import replacing

    factor = max(1, SMALLEST // images.shape[-1])
    shown = images[: ROWS * COLUMNS].repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    pitch = shown.shape[-1] + MARGIN  # from an image to the next
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    grid = torch.full((3, rows * pitch + MARGIN, columns * pitch + MARGIN), 255, dtype=torch.uint8)
    for place, image in enumerate(shown):  # an image of one channel fills all three
        top, left = (MARGIN + pitch * number for number in divmod(place, columns))
        grid[:, top : top + image.shape[-2], left : left + image.shape[-1]] = image
    with replacing(path) as unfinished:
        Image.fromarray(grid.permute(1, 2, 0).cpu().numpy()).save(unfinished, format="png")


def first_row(grid: np.ndarray) -> np.ndarray:
    """The first row of square images of a grid [H, W, 3]."""
    return grid[: (grid.shape[1] - MARGIN) // COLUMNS + MARGIN]
