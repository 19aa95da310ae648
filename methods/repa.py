"""REPA, representation alignment (arXiv 2410.06940).

Pulls one early hidden state h of the backbone towards the patch tokens y of a frozen image encoder:

    L_REPA = -(1/N) sum_n cos(y_n, phi(h_n)),        total = denoising loss + weight * L_REPA

with a projector phi shared by all tokens. Defaults are those of the paper's main table and of the
authors' code: weight 0.5, depth 4 for 12 blocks and 8 for 24 or 28 (appendix G), projector width 2048.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import TEACHER, BackboneInfo, Context, EncoderInfo, Loss, Method, Needs, joined

PAPER_DEPTHS = {12: 4, 24: 8, 28: 8}  # blocks -> alignment depth
PAPER_PROJECTOR_WIDTH = 2048


class REPA(Method):
    """Cosine alignment of one hidden state with a frozen encoder's patch tokens.

    Options:
        weight: of the alignment loss.
        depth: align after this block, 1-based; 0 takes the paper's, or for other sizes the block at a third
            of the network, rounded up.
        encoder: name of the frozen encoder; "teacher" takes the one the data set recommends. Several,
            joined by "+", get a projector each and share the weight, as in the authors' code.
        projector_width: hidden width of phi; 0 takes the paper's 2048, or twice the width below 384.
        align_until: alignment ends after this part of training; 1 in the paper, less in HASTE (2505.16792).
    """

    weight: float = 0.5
    depth: int = 0
    encoder: str = TEACHER
    projector_width: int = 0
    align_until: float = 1.0

    def build(self, backbone: BackboneInfo, encoder: Callable[[str], EncoderInfo]) -> None:
        self.alignment_depth = self.depth or PAPER_DEPTHS.get(backbone.depth, -(-backbone.depth // 3))
        if not 1 <= self.alignment_depth <= backbone.depth:
            raise ValueError(f"depth={self.depth} is outside the backbone's blocks 1..{backbone.depth}")
        if not 0 < self.align_until <= 1:
            raise ValueError(f"align_until={self.align_until} must lie in (0, 1]")
        if self.weight == 0:
            return  # no encoder is loaded, no projector made: exactly the baseline
        targets = [encoder(name) for name in self.encoders]
        for target in targets:
            if target.grid != backbone.grid:
                raise ValueError(
                    f"encoder {target.name} gives {target.grid} tokens, the backbone has {backbone.grid}"
                )
        usual_width = PAPER_PROJECTOR_WIDTH if backbone.width >= 384 else 2 * backbone.width
        hidden_width = self.projector_width or usual_width
        self.projectors = nn.ModuleList(
            projector(backbone.width, hidden_width, target.width) for target in targets
        )

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the frozen encoders."""
        return joined(self.encoder)

    def aligns(self, step: int, steps: int) -> bool:
        """Whether there is an alignment loss at `step` of `steps`."""
        return self.weight != 0 and step < self.align_until * steps

    def needs(self, step: int, steps: int) -> Needs:
        if not self.aligns(step, steps):
            return Needs()
        return Needs(hidden_depths=(self.alignment_depth,), encoders=self.encoders)

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.aligns(context.step, context.steps):
            return {}
        similarity = self.compare(cosine, context.hidden[self.alignment_depth], context)
        return {"repa": Loss(-similarity, self.weight)}

    def compare(
        self, measure: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, context: Context
    ) -> Tensor:
        """`measure(projected, patch_tokens)` of a hidden state [B, N, D], mean over encoders: [B]."""
        pairs = zip(self.projectors, self.encoders, strict=True)
        values = [measure(phi(hidden), context.features[name].patch_tokens) for phi, name in pairs]
        return torch.stack(values).mean(dim=0)


def projector(width: int, hidden_width: int, target_width: int) -> nn.Sequential:
    """phi: three linear layers with SiLU between, [.., width] -> [.., target_width]; xavier, zero bias."""
    layers = nn.Sequential(
        nn.Linear(width, hidden_width),
        nn.SiLU(),
        nn.Linear(hidden_width, hidden_width),
        nn.SiLU(),
        nn.Linear(hidden_width, target_width),
    )
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return layers


def cosine(tokens: Tensor, target: Tensor) -> Tensor:
    """Mean over tokens of the cosine, [B, N, D] x [B, N, D] -> [B], in float32 (half precision overflows)."""
    return F.cosine_similarity(tokens.float(), target.float(), dim=-1).mean(dim=1)
