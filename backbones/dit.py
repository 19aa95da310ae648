"""DiT (arXiv 2212.09748): a transformer that predicts the noise and the variance of DDPM."""

from __future__ import annotations

from torch import Tensor

from backbones.base import Backbone
from backbones.blocks import Transformer
from backbones.extras import Extra

TIMESTEPS = 1000


class DiT(Transformer):
    """Predicts noise and raw variance, [B, C, H, W] each. DDPM timestep k = 0..999 is t = (k + 1) / 1000."""

    def network_time(self, t: Tensor) -> Tensor:
        """The integer timestep k."""
        return (TIMESTEPS * t).round() - 1

    def attach_extras(self, extras: tuple[Extra, ...]) -> None:
        """Raises ValueError: samplers and variance of DiT do not support extras."""
        return Backbone.attach_extras(self, extras)
