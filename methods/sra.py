"""SRA, self-representation alignment (arXiv 2505.02831).

An early block of the network at noise level t is aligned with a later block of the weight average (EMA) at a
lower noise level, with the same noise and the same dropped labels; no encoder:

    L = D(phi(h^m(x_t, t)), stop_gradient(h_EMA^n(x_t', t'))),      t' = clamp(t - kappa U, 0, 1)

with U uniform in [0, 1) and phi = Linear(D, 2D), SiLU, Linear(2D, D). Blocks m -> n are the paper's. D and
the weight are those of the paper: smooth-L1 with beta = 0.05 over all entries, 0.2 until epoch 149, then
0.2 * 0.1^((epoch - 149) / 1000). An epoch is 5,004 steps, as for ImageNet at batch size 256.

The released code's default is weight 0.5 on 1 - cos, where the cosine runs over the *tokens* of a channel:
`sra[distance=cosine-over-tokens,decay=false,weight=0.5]`. `cosine` is over the channels of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from methods.base import BackboneInfo, Context, EncoderInfo, Loss, Method, Needs
from methods.parts.alignment import block_number
from methods.parts.distances import cosine, cosine_over_tokens, smooth_l1
from methods.parts.projectors import mlp

STUDENT_BLOCKS = {"sit": {12: 3, 24: 6, 28: 8}, "dit": {12: 3, 24: 6, 28: 8}}  # blocks -> m
TEACHER_BLOCKS = {"sit": {12: 8, 24: 16, 28: 20}, "dit": {12: 7, 24: 14, 28: 16}}  # blocks -> n
STEPS_PER_EPOCH = 5004


class SRA(Method):
    """Alignment of an early block with a later block of the weight average.

    Options:
        weight: of the loss.
        decay: decrease the weight from epoch 149 on, as in the paper.
        distance: "smooth-l1", "cosine" (1 - cos) or "cosine-over-tokens".
        beta: of smooth-l1.
        kappa: largest difference between the noise levels of network and average.
        depth, target_depth: blocks m and n, 1-based; 0: the paper's, for other depths a quarter and two
            thirds of the network.
    """

    weight: float = 0.2
    decay: bool = True
    distance: Literal["smooth-l1", "cosine", "cosine-over-tokens"] = "smooth-l1"
    beta: float = 0.05
    kappa: float = 0.2
    depth: int = 0
    target_depth: int = 0

    def build(self, backbone: BackboneInfo, encoder: Callable[[str], EncoderInfo]) -> None:
        student, teacher = STUDENT_BLOCKS[backbone.family], TEACHER_BLOCKS[backbone.family]
        self.block = block_number(self.depth, backbone.depth, student, 1 / 4)
        self.target_block = block_number(self.target_depth, backbone.depth, teacher, 2 / 3, "target_depth")
        if self.weight:
            self.projector = mlp(backbone.width, 2 * backbone.width, backbone.width)

    def needs(self, step: int, steps: int) -> Needs:
        return Needs(hidden_depths=(self.block,), ema=True) if self.weight else Needs()

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.weight:
            return {}
        assert context.ema is not None
        lower = (context.t - self.kappa * context.share.rand()).clamp(0, 1)
        target = context.ema(lower, (self.target_block,)).hidden[self.target_block]
        value = self.compare(self.projector(context.hidden[self.block]), target)
        late = max(0, context.step // STEPS_PER_EPOCH - 149) if self.decay else 0
        return {"sra": Loss(value, self.weight * 0.1 ** (late / 1000))}

    def compare(self, tokens: Tensor, target: Tensor) -> Tensor:
        """The distance D of each sample, [B, N, D] x [B, N, D] -> [B]."""
        if self.distance == "smooth-l1":
            return smooth_l1(tokens, target, self.beta)
        return 1 - (cosine if self.distance == "cosine" else cosine_over_tokens)(tokens, target)
