"""From decoded images in [-1, 1] to the 8-bit pixels that are judged: code bases round differently.

    truncate   floor(255 (x + 1) / 2)        REPA and its forks; half a level dark on average
    round      nearest(255 (x + 1) / 2)      the inverse of reading pixels as 2 p / 255 - 1
    adm        floor(127.5 x + 128)          ADM, DiT, SiT; as `round`, with halves up

All clamp to 0..255.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["truncate", "round", "adm"]


def to_uint8(images: Tensor, rounding: Rounding) -> Tensor:
    """Images of any shape, values meant to be in [-1, 1], to uint8 by the named rule."""
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    if rounding == "adm":
        return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)
    levels = 255 * ((images + 1) / 2).clamp(0, 1)
    return (levels.round() if rounding == "round" else levels).to(torch.uint8)
