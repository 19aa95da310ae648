"""REPA, representation alignment (arXiv 2410.06940).

Aligns an early hidden state h of the backbone with the patch tokens y of a frozen image encoder:

    L_REPA = -(1/N) sum_n cos(y_n, phi(h_n)),        total = denoising loss + weight * L_REPA

with a projector phi shared by all tokens. Defaults are those of the paper's main table and of the
authors' code: weight 0.5, depth 4 for 12 blocks and 8 for 24 or 28 (appendix G), projector width 2048.
"""

from __future__ import annotations

from torch import nn

from methods.base import BackboneInfo, Context, EncoderInfo, Loss
from methods.parts.alignment import EncoderAlignment
from methods.parts.distances import cosine
from methods.parts.projectors import mlp

PAPER_PROJECTOR_WIDTH = 2048


class REPA(EncoderAlignment):
    """Cosine alignment of one hidden state with a frozen encoder's patch tokens.

    Options, in addition to those of EncoderAlignment:
        projector_width: hidden width of phi; 0: the paper's 2048, for widths below 384 twice the width.
    """

    projector_width: int = 0

    def projector(self, backbone: BackboneInfo, encoder: EncoderInfo) -> nn.Module:
        usual_width = PAPER_PROJECTOR_WIDTH if backbone.width >= 384 else 2 * backbone.width
        hidden_width = self.projector_width or usual_width
        return mlp(backbone.width, hidden_width, hidden_width, encoder.width)

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.aligns(context.step, context.steps):
            return {}
        return {"repa": Loss(-self.compare(cosine, context), self.weight)}
