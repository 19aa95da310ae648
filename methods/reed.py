"""REED, two teachers and a curriculum (arXiv 2507.08980).

REPA after one block, alignment of the pooled tokens of a deeper block with one vector e per image, and a
denoising loss whose weight rises over a warm-up of W steps:

    weight w(t) REPA - pooled_weight w(t) cos(phi(mean_n h_n), e) + min(1, step / W) denoising

Defaults are the released command's on XL: blocks 8 and 16, effective weights 0.5 and 0.25, W = 50K of 400K
steps, w = 1; other depths use REPA's block and twice that. The mean over tokens comes before phi.

In the released code broadcasting gives every sample the *mean* weight of the batch:
`batch_mean_weight=true`, here with the mean over the whole step. Deviation: e is the class token of an image
encoder; in the paper it is a stored embedding of a vision-language model.
"""

from __future__ import annotations

from typing import Literal

from methods.base import BackboneInfo, Context, GetEncoder, Loss, Needs
from methods.composition import united
from methods.parts.alignment import block_number
from methods.parts.distances import cosine
from methods.parts.schedules import timestep_weight
from methods.repa import REPA


class REED(REPA):
    """REPA with a pooled teacher and a warm-up of the denoising loss.

    Options, in addition to those of REPA:
        pooled_weight: of the pooled alignment; 0: none.
        pooled_depth: its block, 1-based; 0: twice REPA's.
        pooled_encoder: the encoder whose class token is e.
        warm_up: fraction of training over which the denoising loss rises from 0 to its full weight.
        schedule: w, as in `methods/parts/schedules.py`; tau is 1 for cosine, else 0.5, and k is 10.
        batch_mean_weight: use the mean of w over the batch for every sample, as released.
    """

    pooled_weight: float = 0.25
    pooled_depth: int = 0
    pooled_encoder: str = "teacher"
    warm_up: float = 0.125
    schedule: Literal["constant", "linear", "cosine", "sigmoid", "cutoff"] = "constant"
    batch_mean_weight: bool = False
    version = 2
    replaces = ("denoise",)

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        super().build(backbone, encoder)
        twice = {backbone.depth: min(2 * self.alignment_depth, backbone.depth)}
        self.pooled_block = block_number(self.pooled_depth, backbone.depth, twice, option="pooled_depth")
        if not 0 <= self.warm_up <= 1:
            raise ValueError(f"warm_up={self.warm_up} must lie in [0, 1]")
        if self.weight and self.pooled_weight:
            self.pooled = self.projector(backbone, encoder(self.pooled_encoder))

    def needs(self, step: int, steps: int) -> Needs:
        own = super().needs(step, steps)
        pooled = Needs(hidden_depths=(self.pooled_block,), encoders=(self.pooled_encoder,))
        return united(own, pooled) if own.encoders and self.pooled_weight else own

    def losses(self, context: Context) -> dict[str, Loss]:
        losses: dict[str, Loss] = {}
        if context.step < self.warm_up * context.steps:
            ramp = context.step / (self.warm_up * context.steps)
            losses["denoise"] = Loss(context.denoising["denoise"], ramp)
        if not self.aligns(context.step, context.steps):
            return losses
        tau = 1.0 if self.schedule == "cosine" else 0.5
        weight = timestep_weight(self.schedule, context.noise_level, tau, k=10)
        if self.batch_mean_weight:
            whole = timestep_weight(self.schedule, context.share.noise_level, tau, k=10)
            weight = whole.mean().expand_as(weight)
        losses["repa"] = Loss(-self.compare(cosine, context), self.weight * weight)
        if self.pooled_weight:
            pooled = self.pooled(context.hidden[self.pooled_block].mean(dim=1))
            target = context.features[self.pooled_encoder].cls_token
            losses["pooled"] = Loss(-cosine(pooled[:, None], target[:, None]), self.pooled_weight * weight)
        return losses
