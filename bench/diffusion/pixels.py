"""Conversion of images in [-1, 1] to the 8-bit pixels that are scored; code bases round differently.

    truncate   floor(255 (x + 1) / 2)        REPA and its forks; half a level too dark on average
    round      nearest(255 (x + 1) / 2)      the inverse of pixels p -> 2 p / 255 - 1
    adm        floor(127.5 x + 128)          ADM, DiT, SiT; like `round`, with halves rounded up

All results are clamped to 0..255.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["truncate", "round", "adm"]


def to_uint8(images: Tensor, rounding: Rounding) -> Tensor:
    """Images of any shape with values in [-1, 1] -> uint8, by one of the rules above."""
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    if rounding == "adm":
        return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)
    levels = 255 * ((images + 1) / 2).clamp(0, 1)
    return (levels.round() if rounding == "round" else levels).to(torch.uint8)
