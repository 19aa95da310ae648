"""iREPA: alignment with the spatial structure of the teacher (arXiv 2512.10794).

REPA with two changes. The projector is a convolution over the grid of tokens, and the teacher's tokens are
normalised over space, per sample and channel:

    L = -(1/N) sum_n cos(z_n, conv(h)_n),        z = (y - gamma mean_n y) / (std_n y + 1e-6)

with the unbiased standard deviation. Defaults are the paper's kernel of 3 and the weight 1.0 and gamma 0.6 of
the released configuration for latent diffusion (its JiT configuration: weight 0.5, gamma 0.8).

The default of the released trainer is a kernel of 1, a linear map: `kernel=1`.
"""

from __future__ import annotations

from torch import Tensor, nn

from methods.base import BackboneInfo, Context, EncoderInfo, Features, GetEncoder, Loss
from methods.parts.alignment import EncoderAlignment
from methods.parts.distances import cosine, spatial_norm
from methods.parts.projectors import TokenConvolution


class IREPA(EncoderAlignment):
    """Cosine alignment through a convolution with a spatially normalised teacher.

    Options, in addition to those of EncoderAlignment:
        gamma: fraction of the mean over tokens that is subtracted from the teacher's tokens.
        kernel: size of the convolution, odd.
    """

    weight: float = 1.0
    gamma: float = 0.6
    kernel: int = 3

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel} must be odd and positive")
        if backbone.grid == (1, 1):
            raise ValueError("the backbone has one token, which cannot be normalised over space")
        super().build(backbone, encoder)

    def projector(self, backbone: BackboneInfo, encoder: EncoderInfo) -> nn.Module:
        return TokenConvolution(backbone.width, encoder.width, backbone.grid, self.kernel)

    def target(self, features: Features) -> Tensor:
        return spatial_norm(features.patch_tokens, self.gamma)

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.aligns(context.step, context.steps):
            return {}
        return {"irepa": Loss(-self.compare(cosine, context), self.weight)}
