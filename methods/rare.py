"""RARE: weights per token, and an adaptive end ("What visual generators need from teachers", 2026).

iREPA on a teacher layer that is whitened to its first 128 principal axes with fixed statistics of 20K
training images. Tokens that are poorly aligned weigh more, and the alignment ends once it stops improving:

    L = -lambda (1/N) sum_k w_k cos_k,      w_k = clip(eta_k / mean eta, 1/4, 4), divided by its mean,
    eta = (1 - cos) / 2 without gradient

After the last division w may exceed [1/4, 4]. lambda is 1 until the release, then decays to 0 along a half
cosine over an eighth of training. The release happens when a fast and a slow moving average of mean eta
(0.999 and 0.99995 at 400K steps) agree to 2%, within an eighth and five eighths of training.
"""

from __future__ import annotations

from torch import Tensor, nn

from methods.base import BackboneInfo, Context, EncoderInfo, EncoderLayers, Features, GetEncoder, Loss
from methods.irepa import IREPA
from methods.parts.distances import spatial_norm, token_cosines
from methods.parts.projectors import TokenConvolution
from methods.parts.release import Release
from methods.parts.statistics import PrincipalAxes


class RARE(IREPA, Release):
    """iREPA with a whitened teacher, token weights and a release.

    Options, in addition to those of iREPA and Release:
        layer: encoder layer, 1 the first, -1 the last; 0: its patch tokens.
        components: principal axes of the whitened teacher; 0: no whitening.
        records: training images used for the statistics.
        clip: token weights are clipped to [1 / clip, clip] and divided by their mean; 1: no weights.
    """

    layer: int = 0
    components: int = 128
    records: int = 20_000
    clip: float = 4.0

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        if self.clip < 1:
            raise ValueError(f"clip={self.clip} must be at least 1")
        if len(self.encoders) > 1:
            raise ValueError(f"encoder={self.encoder}: rare aligns with one encoder")
        self.captured = EncoderLayers(hidden=(self.layer,) if self.layer else ())
        super().build(backbone, encoder)

    def projector(self, backbone: BackboneInfo, encoder: EncoderInfo) -> nn.Module:
        width = min(self.components, encoder.width) or encoder.width
        self.whitening = PrincipalAxes(encoder.width, width) if self.components else nn.Identity()
        if isinstance(self.whitening, PrincipalAxes):
            seen = (self.tokens(found) for found in encoder.sample(self.records, self.captured))
            self.whitening.fit(seen, standardise=False, whiten=True)
        return TokenConvolution(backbone.width, width, backbone.grid, self.kernel)

    def tokens(self, features: Features) -> Tensor:
        """The teacher's tokens before whitening."""
        return features.hidden[self.layer] if self.layer else features.patch_tokens

    def target(self, features: Features) -> Tensor:
        return spatial_norm(self.whitening(self.tokens(features)), self.gamma)

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.aligns(context.step, context.steps):
            return {}
        cosines = self.compare(token_cosines, context)  # [B, N]
        eta = (1 - cosines.detach()) / 2
        self.observe(eta.mean(dim=1), context)
        value = -(token_weights(eta, self.clip) * cosines).mean(dim=1)
        return {"rare": Loss(value, self.weight * self.strength(context.step, context.steps))}


def token_weights(eta: Tensor, clip: float) -> Tensor:
    """Weight of each token, with mean 1 over a sample, [B, N] -> [B, N]."""
    clipped = (eta / eta.mean(dim=1, keepdim=True).clamp(min=1e-12)).clamp(1 / clip, clip)
    return clipped / clipped.mean(dim=1, keepdim=True)
