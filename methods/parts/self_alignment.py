"""Base class of methods that align an early block with a later block of the weight average (EMA)."""

from __future__ import annotations

from torch import Tensor

from methods.base import BackboneInfo, Context, GetEncoder, Method, Needs, TokenTimes
from methods.parts.alignment import block_number
from methods.parts.projectors import mlp

STUDENT_BLOCKS = {"sit": {12: 3, 24: 6, 28: 8}, "dit": {12: 3, 24: 6, 28: 8}}  # blocks -> m, of SRA
TARGET_BLOCKS = {"sit": {12: 8, 24: 16, 28: 20}, "dit": {12: 7, 24: 14, 28: 16}}  # blocks -> n


class SelfAlignment(Method):
    """Pairs the projected block m of the network with block n of its weight average; no encoder.

    Subclasses define the `losses`. phi is Linear(D, 2D), SiLU, Linear(2D, D).

    Options:
        weight: of the alignment; 0: none.
        depth, target_depth: blocks m and n, 1-based; 0: the paper's.
    """

    weight: float = 0.2
    depth: int = 0
    target_depth: int = 0

    def usual_blocks(self, backbone: BackboneInfo) -> tuple[int, int]:
        """The blocks m and n of depth 0: those of SRA, for other depths a quarter and two thirds."""
        student, target = STUDENT_BLOCKS[backbone.family], TARGET_BLOCKS[backbone.family]
        blocks = backbone.depth
        return block_number(0, blocks, student, 1 / 4), block_number(0, blocks, target, 2 / 3)

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        blocks, (m, n) = backbone.depth, self.usual_blocks(backbone)
        self.block = block_number(self.depth, blocks, {blocks: m})
        self.target_block = block_number(self.target_depth, blocks, {blocks: n}, option="target_depth")
        if self.weight:
            self.projector = mlp(backbone.width, 2 * backbone.width, backbone.width)

    def needs(self, step: int, steps: int) -> Needs:
        return Needs(hidden_depths=(self.block,), ema=True) if self.weight else Needs()

    def pair(
        self, context: Context, t: Tensor | TokenTimes, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """phi(h^m), and h^n of the average, which sees the image at `t`; [B, N, D] each."""
        assert context.ema is not None
        masked = {} if mask is None else {"mask": mask}
        target = context.ema(t, (self.target_block,), **masked).hidden[self.target_block]
        return self.projector(context.hidden[self.block]), target
