"""SiT (arXiv 2401.08740): the transformer that predicts the velocity of an interpolant.

It embeds t itself, 0 to 1. In this suite t = 1 is noise and the velocity points from data to noise, as in
REPA's code; official SiT files run the other way and are converted on loading (`backbones/official.py`).
Official SiT has DiT's second set of output channels and ignores it: `learned_variance=true`.
"""

from __future__ import annotations

from backbones.blocks import Transformer
from backbones.transformer import TransformerArchitecture


class SiT(Transformer):
    """Predicts the velocity [B, C, H, W]."""


class SiTArchitecture(TransformerArchitecture):
    """`sit-SIZE/PATCH`."""

    family = "sit"
    process = "flow"

    def build(self, *, input_size: int, channels: int, num_classes: int) -> SiT:
        """Officially initialised. Raises ValueError if the patch does not divide the image."""
        return SiT(self, input_size=input_size, channels=channels, num_classes=num_classes)
