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

from typing import Literal

from torch import Tensor

from methods.base import Context, Loss
from methods.parts.distances import cosine, cosine_over_tokens, smooth_l1
from methods.parts.self_alignment import SelfAlignment

STEPS_PER_EPOCH = 5004


class SRA(SelfAlignment):
    """Alignment of an early block with a later block of the weight average.

    Options, in addition to those of SelfAlignment:
        decay: decrease the weight from epoch 149 on, as in the paper.
        distance: "smooth-l1", "cosine" (1 - cos) or "cosine-over-tokens".
        beta: of smooth-l1.
        kappa: largest difference between the noise levels of network and average.
    """

    decay: bool = True
    distance: Literal["smooth-l1", "cosine", "cosine-over-tokens"] = "smooth-l1"
    beta: float = 0.05
    kappa: float = 0.2

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.weight:
            return {}
        lower = (context.t - self.kappa * context.share.rand()).clamp(0, 1)
        value = self.compare(*self.pair(context, lower))
        late = max(0, context.step // STEPS_PER_EPOCH - 149) if self.decay else 0
        return {"sra": Loss(value, self.weight * 0.1 ** (late / 1000))}

    def compare(self, tokens: Tensor, target: Tensor) -> Tensor:
        """The distance D of each sample, [B, N, D] x [B, N, D] -> [B]."""
        if self.distance == "smooth-l1":
            return smooth_l1(tokens, target, self.beta)
        return 1 - (cosine if self.distance == "cosine" else cosine_over_tokens)(tokens, target)
