"""SiT (arXiv 2401.08740): the transformer that predicts the velocity of an interpolant.

It embeds t itself, 0 to 1. In this suite t = 1 is noise and the velocity points from data to noise, as in
REPA's code; official SiT files run the other way and are converted on loading (`backbones/official.py`).
Official SiT has DiT's second set of output channels and ignores it: `learned_variance=true`.
"""

from __future__ import annotations

from backbones.blocks import Transformer


class SiT(Transformer):
    """Predicts the velocity [B, C, H, W]."""
