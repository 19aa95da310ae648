"""Extra parts of a backbone's state: tokens or maps, noised and predicted beside the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Extra:
    """A part of the state beside the image, with the image's t.

    It is stored with the backbone, so that sampling needs neither the method nor an encoder.
    """

    name: str
    width: int  # channels
    kind: Literal["token", "map"] = "token"  # [B, width], or [B, width, H, W] at the latent's resolution
    weight: float = 1.0  # of its denoising term, "denoise NAME"
    guided: bool = False  # whether classifier-free guidance acts on it; else its conditional prediction holds
