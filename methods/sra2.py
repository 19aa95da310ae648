"""SRA 2: an early block predicts the clean latent (arXiv 2601.17830; no public code).

    L = smooth_L1(phi(h_n), patch_n(x0)),        mean over tokens n and the p^2 C values of a patch

at all noise levels, without an encoder: the target is the clean latent itself. Weight 1 and the blocks 2 of
12 and 8 of 24 or 28 are the paper's. The widths D, D/2, D/4, D/8, D/8, p^2 C of phi, with SiLU between, and
beta = 0.05 are from a third-party implementation. Values of a patch are ordered row, column, channel, as in
the output of the backbone.
"""

from __future__ import annotations

from torch import Tensor

from methods.base import BackboneInfo, Context, GetEncoder, Loss, Method, Needs
from methods.parts.alignment import block_number
from methods.parts.distances import smooth_l1
from methods.parts.projectors import mlp

PAPER_DEPTHS = {12: 2, 24: 8, 28: 8}  # blocks -> depth


class SRA2(Method):
    """Prediction of the patches of the clean latent from one hidden state.

    Options:
        weight: of the loss.
        depth: the block, 1-based; 0: the paper's, for other depths a third of the network.
        beta: difference at which smooth L1 changes from quadratic to linear.
    """

    weight: float = 1.0
    depth: int = 0
    beta: float = 0.05

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        self.block = block_number(self.depth, backbone.depth, PAPER_DEPTHS)
        if self.beta <= 0:
            raise ValueError(f"beta={self.beta} must be positive")
        if self.weight:
            width, self.patch = backbone.width, backbone.patch
            numbers = self.patch**2 * backbone.channels
            self.projector = mlp(width, width // 2, width // 4, width // 8, width // 8, numbers)

    def needs(self, step: int, steps: int) -> Needs:
        return Needs(hidden_depths=(self.block,)) if self.weight else Needs()

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.weight:
            return {}
        predicted = self.projector(context.hidden[self.block])
        return {"sra2": Loss(smooth_l1(predicted, patches(context.x0, self.patch), self.beta), self.weight)}


def patches(image: Tensor, size: int) -> Tensor:
    """Patches of an image, [B, C, H, W] -> [B, N, size * size * C], row by row."""
    rows = image.unfold(2, size, size).unfold(3, size, size)  # [B, C, h, w, size, size]
    return rows.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
