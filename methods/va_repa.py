"""VA-REPA, alignment at low noise levels: part of Stable Velocity (arXiv 2602.05435).

    L = sum_i w(t_i) l_i / sum_i w(t_i),        l_i the REPA loss of sample i, sums over the whole batch

with w one of sigmoid, hard, hard-high (the reverse, a control), cosine and snr:
`methods/parts/schedules.py`.

Defaults are the paper's: sigmoid, k = 20, tau = 0.7, REPA's weight and depth. The released trainer
defaults to `hard`, uses tau = 0.85 for `cosine`, and normalises the teacher with gamma = 0.6 if given
`--use-irepa`.

In the released code the sums run over the samples of one device, so the loss depends on the number of
devices; here they run over the whole batch. As in the released code, a step whose weights sum to less than
1e-8 has no alignment. t is noise / (signal + noise), which is comparable between paths. The logged raw value
is that of REPA.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from methods.base import BackboneInfo, Context, Features, GetEncoder, Loss
from methods.parts.distances import cosine, spatial_norm
from methods.parts.schedules import timestep_weight
from methods.repa import REPA

Schedule = Literal["sigmoid", "hard", "hard-high", "cosine", "snr"]


class VAREPA(REPA):
    """REPA whose samples are weighted by their noise level.

    Options, in addition to those of REPA:
        schedule: of w(t), see the module.
        tau: noise level in (0, 1) at which the weight falls; 0: 0.7, for cosine 0.85.
        sharpness: k of the sigmoid.
        gamma: of iREPA's spatial normalisation of the teacher; 0: none.
    """

    schedule: Schedule = "sigmoid"
    tau: float = 0.0
    sharpness: float = 20.0
    gamma: float = 0.0

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        if not 0 <= self.tau < 1:
            raise ValueError(f"tau={self.tau} must lie in (0, 1), or be 0 for the default")
        super().build(backbone, encoder)

    def target(self, features: Features) -> Tensor:
        return spatial_norm(features.patch_tokens, self.gamma) if self.gamma else features.patch_tokens

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.aligns(context.step, context.steps):
            return {}
        value = -self.compare(cosine, context)
        total = self.timestep_weight(context.share.noise_level).sum()
        share = self.timestep_weight(context.noise_level) / total.clamp(min=1e-8)
        mean_one = context.share.batch_size * share * (total > 1e-8)
        return {"va-repa": Loss(value, self.weight * mean_one)}

    def timestep_weight(self, t: Tensor) -> Tensor:
        """The weight w of noise levels in [0, 1], in the same shape."""
        tau = self.tau or (0.85 if self.schedule == "cosine" else 0.7)
        return timestep_weight(self.schedule, t, tau, self.sharpness)
