"""ReDi, joint diffusion of latent and representation (arXiv 2504.16064).

The first 8 principal components of the encoder's patch tokens are additional channels of the state: noised
with the t of the image, predicted, and sampled with it:

    z = upsample(PCA_8((y - mean) / std)),        denoising + weight |v_z - (eps_z - z)|^2

Mean, (biased) standard deviation and axes are computed from the data before step 0; the map is upsampled
bilinearly to the resolution of the latent, corners not aligned. Weight and components are the paper's; with
REPA, as there: `redi+repa[depth=8]`. The components keep their variance, so their term starts well above that
of the image. Guidance acts on the image alone, as published. The released code estimates the statistics from
about 300 batches, and its switch for whitening has no effect on training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.extras import Extra
from methods.base import BackboneInfo, Context, Draw, Features, GetEncoder, Loss, Method, Needs, Steering
from methods.parts.statistics import PrincipalAxes

MAP = "pca"


class ReDi(Method):
    """Principal components of the teacher as channels of the state.

    Options:
        weight: of the denoising loss of the components.
        components: number of channels.
        whiten: give every component unit variance.
        drop: fraction of steps in which the components, and their loss, are zeroed for the whole batch; 0.2
            enables representation guidance in the released sampler.
        encoder: name of the frozen encoder; "teacher": the one recommended for the data set.
        records: training images used for the statistics.
    """

    weight: float = 1.0
    components: int = 8
    whiten: bool = False
    drop: float = 0.0
    encoder: str = "teacher"
    records: int = 1000

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop={self.drop} must lie in [0, 1)")
        info = encoder(self.encoder)
        if not 1 <= self.components <= info.width:
            raise ValueError(f"components={self.components} must lie in 1..{info.width}, the encoder's width")
        self.grid = info.grid
        self.size = tuple(tokens * backbone.patch for tokens in backbone.grid)
        self.axes = PrincipalAxes(info.width, self.components)
        tokens = (features.patch_tokens for features in info.sample(self.records))
        self.axes.fit(tokens, standardise=True, whiten=self.whiten)

    def needs(self, step: int, steps: int) -> Needs:
        return Needs(encoders=(self.encoder,))

    def extras(self) -> tuple[Extra, ...]:
        return (Extra(MAP, self.components, "map", self.weight, guided=False),)

    def steer(self, draw: Draw) -> Steering:
        values = self.map(draw.features[self.encoder])
        dropped = bool(torch.rand((), generator=draw.share.generator) < self.drop)
        return Steering(extras={MAP: torch.zeros_like(values) if dropped else values}, memo=dropped)

    def map(self, features: Features) -> Tensor:
        """The components at the latent's resolution, [B, k, H, W]."""
        scores = self.axes(features.patch_tokens).transpose(1, 2).unflatten(2, self.grid)
        return F.interpolate(scores, self.size, mode="bilinear", align_corners=False)

    def losses(self, context: Context) -> dict[str, Loss]:
        dropped, term = context.memo, f"denoise {MAP}"
        return {term: Loss(context.denoising[term], 0.0)} if dropped else {}
