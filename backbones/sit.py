"""SiT (arXiv 2401.08740): a transformer that predicts the velocity of an interpolant.

It embeds t in [0, 1]. In this suite t = 1 is noise and the velocity points from data to noise, as in REPA's
code; official SiT files use the opposite convention and are converted on loading (`backbones/official.py`).
Official SiT has the variance channels of DiT but does not use them: `learned_variance=true`.
"""

from __future__ import annotations

from backbones.blocks import Transformer


class SiT(Transformer):
    """Predicts the velocity [B, C, H, W]."""
